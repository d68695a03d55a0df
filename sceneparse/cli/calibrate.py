"""Calibrate a model's confidences: one temperature, fitted on a labelled split."""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser, create_output, writing
from sceneparse.cli.evaluated_data import open_dataset, set_usual_data, usual_settings
from sceneparse.cli.options import (
    add_device,
    add_option,
    add_protocol_options,
    add_quiet,
    number,
    protocol_settings,
)
from sceneparse.cli.output import print_summary
from sceneparse.errors import InputError

if TYPE_CHECKING:
    from sceneparse.evaluation.calibrate import Calibrated
    from sceneparse.models.segmentation import SegmentationModel

logger = logging.getLogger(__name__)

EXAMPLES = """\
  sceneparse calibrate runs/quickstart
  sceneparse calibrate runs/camvid_mobilenet --data /data/camvid --split val
  sceneparse predict runs/quickstart photos --abstain 0.7

The temperature goes to RUN/calibration.json, and belongs to one checkpoint: the best one of a run
folder, or the one given. From then on, prediction, evaluation and exports of this checkpoint divide
logits by it before softmax. With one view of an image (no --scales, --mirror, windows), its labels
stay the same; only confidences change.
Choose a split that the model was not trained on. The table shows, by confidence, how many pixels
have at least that much, and how many of them are wrong."""

_COPY = "it belongs beside the checkpoints; copy the run to a folder that can be written"


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    purpose = "Fit the temperature of a model's confidences on a labelled split."
    result = command_parser("calibrate", purpose, EXAMPLES)
    result.add_argument("checkpoint", metavar="RUN", help="run folder or checkpoint")
    add = partial(add_option, result)
    add("--data FOLDER", "folder of the dataset; default as in training")
    add("--dataset NAME", "layout of the dataset; default as in training")
    add("--split SPLIT", "split, or list file in the folder; default the validation split")
    add("--workers N", "processes that read images", type=number(int, 0), default=2)
    add_device(result)
    add_quiet(result)
    add_protocol_options(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Fit the temperature, print what it changes, and write it beside the checkpoints."""
    from sceneparse.data.sample_checks import require_labels
    from sceneparse.evaluation.calibrate import calibrate
    from sceneparse.inference.predictor import Predictor
    from sceneparse.models.stored import resolve_checkpoint
    from sceneparse.runs.calibration import calibration_path, write_calibration

    model = load_own(options.checkpoint)
    set_usual_data(options, usual_settings(model))
    dataset = open_dataset(options, model)
    require_labels(dataset, "choose a --split with labels")
    warn_of_training_images(options, model)
    checkpoint = resolve_checkpoint(options.checkpoint)
    predictor = Predictor(model, device=options.device, **protocol_settings(options))
    print(f"checkpoint   {checkpoint}")
    print(f"data         {len(dataset)} images, split {options.split} of {options.data}")
    print(f"protocol     {predictor.protocol.description}")
    # Known before the passes over the images, not after them.
    with writing(place := calibration_path(checkpoint), _COPY):
        create_output(place.parent)
    found = calibrate(predictor, dataset, options.workers)
    values = {
        "temperature": found.temperature,
        "data": options.data,
        "split": options.split,
        "images": len(dataset),
        "protocol": predictor.protocol.description,
        **measured(found),
    }
    with writing(place):
        path = write_calibration(checkpoint, model.meta, values)
    print(f"\n{tables(found)}")
    least = ["--abstain", "0.7"]
    rows = {"temperature": f"{found.temperature:.4g}", "written": path}
    print_summary(
        "calibrate", rows, ["sceneparse", "predict", options.checkpoint, "PHOTOS", *least]
    )
    if found.at_limit:
        logger.warning(f"warning: {limit_reason(found.temperature)}; choose another --split")


def limit_reason(temperature: float) -> str:
    """Tell why no temperature between the limits is the best."""
    if temperature < 1:
        why = "nearly all predictions of this split are right, or the model is hardly trained"
        return f"the temperature is at its lower limit, since {why}"
    return "the temperature is at its upper limit, since confidences tell nothing on this split"


def load_own(path: str) -> SegmentationModel:
    """Load the model of a run or checkpoint; raise InputError for exported files."""
    from sceneparse.models.stored import holds_one_model
    from sceneparse.runs.checkpoint import load_segmentation_model

    place = Path(path)
    if place.suffix in {".onnx", ".pt2", ".safetensors"} or holds_one_model(place):
        raise InputError(
            f"'{path}' is exported from a run; calibrate the run (sceneparse calibrate RUN), then "
            "export it again"
        )
    return load_segmentation_model(path)


def warn_of_training_images(options: argparse.Namespace, model: SegmentationModel) -> None:
    """Warn if the split is the one that the model was trained on."""
    usual = usual_settings(model)
    trained = model.meta.get("config", {}).get("data", {}).get("train_split")
    same = str(Path(options.data).expanduser().resolve()) == usual["data"]
    if same and options.split == trained != usual["split"]:
        logger.warning(
            f"warning: the model was trained on split {options.split}, so the expected errors will "
            "be too low for other images; choose another --split"
        )


def measured(found: Calibrated) -> dict[str, Any]:
    """Return what was measured, as plain values for a JSON file."""
    from sceneparse.report.tables import plain

    values: dict[str, Any] = plain(
        {
            "nll_before": found.nll[0],
            "nll": found.nll[1],
            "calibration_error_before": found.error[0],
            "calibration_error": found.error[1],
            "risk": found.risk.table(),
        }
    )
    return values


def tables(found: Calibrated) -> str:
    """Format what the temperature changes, and coverage and error by confidence."""
    from sceneparse.report.tables import Table, four_digits

    rows = [
        ["negative log likelihood", *map(four_digits, found.nll)],
        ["expected calibration error", *map(four_digits, found.error)],
    ]
    changes = Table("Calibration", ["", "before", "after"], rows)
    risk = found.risk.table()
    lines = zip(risk["thresholds"], risk["coverage"], risk["error"], strict=True)
    rows = [
        [f"{least:.2f}", f"{part:.2%}", f"{wrong:.2%}" if part else "-"]
        for least, part, wrong in lines
    ]
    heads = ["confidence at least", "pixels", "wrong of these"]
    return f"{changes.as_text()}\n\n{Table('Risk', heads, rows).as_text()}"
