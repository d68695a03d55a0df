"""What an evaluation evaluates: the images and settings of the options, else as in training."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.options import protocol_settings
from sceneparse.errors import InputError, first_few
from sceneparse.runtime.shell import command_line

if TYPE_CHECKING:
    from sceneparse.data.datasets import SegmentationDataset
    from sceneparse.models.segmentation import SegmentationNetwork


def set_usual_data(options: argparse.Namespace, usual: dict[str, Any]) -> None:
    """Set the dataset, folder and split that are not given to those of the model's validation."""
    for name in ("dataset", "data", "split"):
        if getattr(options, name) is None:
            setattr(options, name, usual[name])
        if getattr(options, name) is None:
            raise InputError(f"the model does not name the {name} it was trained on; give --{name}")


def open_dataset(options: argparse.Namespace, model: SegmentationNetwork) -> SegmentationDataset:
    """Open the split to evaluate; raise InputError unless its classes are those of the model."""
    from sceneparse.data.datasets import classes_unless_named, create_dataset

    name, root, classes = options.dataset, options.data, model.classes
    named = classes_unless_named(name, root, classes)
    dataset = create_dataset(name, root, options.split, named, bit_depth=model.bit_depth)
    found = dataset.table.names
    if found != classes:
        sides = ("the data", found, classes), ("the model", classes, found)
        only = [(side, [k for k in own if k not in other]) for side, own, other in sides]
        differ = "; ".join(f"only {side} has {first_few(names)}" for side, names in only if names)
        raise InputError(
            f"the data has {len(found)} classes, the model {len(classes)}; they must be the same: "
            f"{differ or 'their order differs'}"
        )
    return dataset


def usual_settings(model: SegmentationNetwork) -> dict[str, Any]:
    """Return the settings of an evaluation without options: as the model was validated."""
    from sceneparse.inference.predictor import protocol_of

    data = model.meta.get("data", {})
    root = data.get("root")
    return {
        "dataset": data.get("dataset", "folder"),
        "data": None if root is None else str(Path(root).expanduser().resolve()),
        "split": data.get("val_split"),
        "protocol": protocol_of(model).description,
        "excluded": [],
    }


def settings_of(
    options: argparse.Namespace, model: SegmentationNetwork, usual: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return what is evaluated and how, and words for what differs from the usual settings."""
    from sceneparse.evaluation.folders import excluded_variant, protocol_variant
    from sceneparse.inference.predictor import protocol_of

    asked = protocol_settings(options)
    asked = {key: asked[key] for key in asked if key not in {"amp", "dtype", "compile"}}
    protocol = protocol_of(model, asked.pop("protocol"), **asked)
    settings = {
        "dataset": options.dataset,
        "data": str(Path(options.data).expanduser().resolve()),
        "split": options.split,
        "protocol": protocol.description,
        "excluded": [name for name in model.classes if name in options.exclude],
    }
    variant = [options.dataset] if settings["dataset"] != usual["dataset"] else []
    variant += [Path(settings["data"]).name] if settings["data"] != usual["data"] else []
    plain = protocol_of(model, protocol.name)
    variant += protocol_variant(protocol, plain, protocol_of(model).name)
    return settings, variant + excluded_variant(settings["excluded"])


def predict_instead(checkpoint: str, dataset: SegmentationDataset) -> str:
    """Return the command for images whose labels are withheld."""
    folder = os.path.commonpath([pair.image.parent for pair in dataset.pairs])
    command = command_line(["sceneparse", "predict", checkpoint, folder, "--save", "raw"])
    return f"if the labels are withheld, write predictions for the submission server: {command}"
