"""The calibration of a checkpoint, in calibration.json beside the checkpoints of its run.

It holds the temperature that logits are divided by, and how many pixels are wrong above which
confidence. It belongs to one checkpoint, which it names by step and by the checksum of its weights.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sceneparse.errors import one_line
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.models.description import check_calibration
from sceneparse.models.stored import MODEL_FILE
from sceneparse.runs.atomic import replace_text
from sceneparse.runtime.shell import command_line

CALIBRATION_FILE = "calibration.json"


def calibration_path(checkpoint: Path) -> Path:
    """Return the file for a checkpoint folder: in its run, or in a checkpoint outside of runs."""
    folders = checkpoint.parent
    place = folders.parent if folders.name == "checkpoints" else checkpoint
    return place / CALIBRATION_FILE


def calibration_of(source: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"calibration": its values} for a checkpoint folder described by `meta`, or {}.

    Warns if the file is of another checkpoint. Raises InputError if it is damaged.
    """
    path = calibration_path(source)
    if not source.is_dir() or not path.is_file():
        return {}
    found = check_calibration(read_json(path, MAX_DESCRIPTION), path)
    if found["weights"] == _weights_of(meta):
        return {"calibration": found}
    calibrate = command_line(["sceneparse", "calibrate", str(source)])
    text = (
        f"'{path}' is of another checkpoint (step {found['step']}, this one is of step "
        f"{meta['step']}), so confidences are not calibrated; run: {calibrate}"
    )
    warnings.warn(one_line(text), stacklevel=2)
    return {}


def write_calibration(checkpoint: Path, meta: Mapping[str, Any], values: Mapping[str, Any]) -> Path:
    """Write what was found for the checkpoint of a model with this `meta`; return the file."""
    path = calibration_path(checkpoint)
    found = {"step": meta["step"], "weights": _weights_of(meta), **values}
    check_calibration(found, path)
    replace_text(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def _weights_of(meta: Mapping[str, Any]) -> str:
    return str(meta["sha256"][MODEL_FILE])
