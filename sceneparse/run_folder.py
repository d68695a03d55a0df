"""The folder of a run: when it may be used, what a resumed run may change, what it starts with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sceneparse.checkpoint import resolve_checkpoint
from sceneparse.errors import InputError, first_few
from sceneparse.logs import forget_records_after
from sceneparse.settings import flat

# Settings that a resumed run may change: they say where things are, not what is computed.
_FREE_SETTINGS = (
    "output",
    "data.root",
    "data.cache",
    "data.workers",
    "data.timeout",
    "data.check",
)


def refuse_existing_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise InputError unless the folder is new, or what the user asked for is possible in it."""
    if resume:
        resolve_checkpoint(folder, prefer="last")
        return
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    is_run = (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()
    if not is_run:
        raise InputError(
            f"'{folder}' exists and is not a run folder; choose another one with output=FOLDER"
        )
    if not overwrite:
        go_on = "go on with --resume, " if (folder / "last").exists() else ""
        raise InputError(
            f"'{folder}' holds a run; {go_on}start anew with --overwrite, or choose another folder "
            "with output=FOLDER"
        )


def refuse_changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise InputError where a resumed run would compute something else than it began with."""
    changed = changed_settings(saved, now)
    if changed:
        raise InputError(
            f"the configuration differs from the run's: {first_few(changed)}; resume with the same "
            "settings, or start another run with output=FOLDER"
        )


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the settings that differ, but for those that only say where things are."""
    before, after = flat(saved), flat(now)
    return [
        f"{key} was {before.get(key)}, is {after.get(key)}"
        for key in {**before, **after}
        if key not in _FREE_SETTINGS and before.get(key) != after.get(key)
    ]


def create_run_folder(folder: Path, config: str, *, steps_done: int, overwrite: bool) -> None:
    """Write the resolved configuration; forget the records of steps that will be done again."""
    try:
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the run folder '{folder}': {error.strerror}") from error
    forget_records_after(folder / "metrics.jsonl", steps_done)
