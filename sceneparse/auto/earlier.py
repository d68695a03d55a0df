"""What an earlier job or run found and decided, to go further from its best weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sceneparse.auto.intake import Intake
from sceneparse.auto.plan import Choice
from sceneparse.auto.record import RECORD_FILE, model_of, read_record
from sceneparse.config.loading import read_settings
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError, refusing
from sceneparse.models.stored import read_description
from sceneparse.runs.folder import is_run_folder


@dataclass(frozen=True)
class Earlier:
    """Where the samples are, the settings, the better run and its mean IoU if it is known."""

    intake: Intake
    choices: tuple[Choice, ...]
    model: Path
    mean_iou: float | None = None


def find_earlier(source: Path) -> Earlier | None:
    """Return the earlier job or run that a folder holds; None: it holds data.

    Raises InputError for a job that has no model yet, and for damaged files.
    """
    if (source / RECORD_FILE).is_file():
        return _of_job(source)
    return _of_run(source) if is_run_folder(source) else None


def intake_of(values: Mapping[str, Any]) -> Intake:
    """Return the intake that auto.json describes."""
    classes = values["classes"] and tuple(values["classes"])
    places = {"root": Path(values["root"]), "notes": tuple(values["notes"])}
    return Intake(**{**values, **places, "classes": classes})


def _of_job(folder: Path) -> Earlier:
    record = read_record(folder)
    if "mean_iou" not in record:
        raise InputError(
            f"'{folder}' is a job without a result; finish it with: {record['command']} --resume"
        )
    with refusing(folder / RECORD_FILE, "damaged"):
        choices = tuple(Choice(**choice) for choice in record["choices"])
        score = float(record["scores"][record["chosen"]])
        return Earlier(intake_of(record["intake"]), choices, model_of(folder, record), score)


def _of_run(folder: Path) -> Earlier:
    settings = read_settings(folder / "config.yaml", [], SegConfig)
    choices = []
    for section, values in settings.items():
        inside = values if isinstance(values, dict) else {"": values}
        choices += [Choice(f"{section}.{k}".strip("."), v, "as before") for k, v in inside.items()]
    with refusing(folder / "config.yaml", "not of a segmentation run"):
        data = settings["data"]
        splits = data.get("train_split", "train"), data.get("val_split", "val")
        note = f"the data of the run {folder}"
        intake = Intake(
            data.get("dataset", "folder"),
            Path(data["root"]),
            *splits,
            (note,),
            data.get("classes") and tuple(data["classes"]),
            data.get("bit_depth"),
        )
    score = read_description(folder)[1].get("best")
    return Earlier(intake, tuple(choices), folder, score)
