"""auto.json: what was found, measured, decided and reached, as plain values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sceneparse.errors import InputError, refusing
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.report.tables import plain
from sceneparse.runs.atomic import replace_text

RECORD_FILE, PLAN_FILE, PAGE_FILE = "auto.json", "plan.yaml", "report.html"


def as_plain(value: object) -> Any:  # noqa: ANN401 - plain values
    """Return a dataclass, a mapping or a sequence as plain values; paths become texts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else plain(value)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write auto.json of a folder, whole or not at all."""
    replace_text(folder / RECORD_FILE, json.dumps(as_plain(record), indent=1) + "\n")


def model_of(folder: Path, record: Mapping[str, Any]) -> Path:
    """Return the run folder of the best model of a job in a folder, by its record."""
    chosen = record["chosen"]
    return Path(record["earlier"]) if chosen == "earlier" else folder / chosen


def read_record(folder: Path) -> dict[str, Any]:
    """Read auto.json of a folder; raises InputError if it is missing or damaged."""
    path = folder / RECORD_FILE
    if not path.is_file():
        raise InputError(f"'{folder}' is no folder of `sceneparse auto`: it has no {RECORD_FILE}")
    with refusing(path, "damaged"):
        record = read_json(path, MAX_DESCRIPTION)
        if not isinstance(record, dict) or "minutes" not in record:
            raise ValueError("no record")
    return record
