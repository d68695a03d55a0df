"""The files of a result to download."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from sceneparse.demo.results import Result
from sceneparse.report.pictures import index_picture, overlay


class Choice(NamedTuple):
    """What an overlay shows: the opacity of colours in 0..1, and the classes not painted."""

    opacity: float
    hidden: Collection[int]


def write_index(path: Path, result: Result, model: int, _: Choice) -> None:
    """Write the number of each pixel's class as a PNG of full size."""
    prediction = result.predictions[model]
    index_picture(prediction.labels, prediction.table).save(path, compress_level=1)


def write_overlay(path: Path, result: Result, model: int, choice: Choice) -> None:
    """Write the picture under the colours of its classes, with a legend, as a PNG of full size."""
    prediction = result.predictions[model]
    table = prediction.table
    unpainted = [number in choice.hidden for number in range(table.num_classes)]
    picture = overlay(
        prediction.image, prediction.labels, table, choice.opacity, unpainted=unpainted
    )
    # More compression would take many seconds.
    Image.fromarray(picture).save(path, compress_level=1)


def write_json(path: Path, result: Result, model: int, _: Choice) -> None:
    """Write the size of the picture, the mean confidence, and the share of each class."""
    prediction = result.predictions[model]
    height, width = prediction.labels.shape
    shares = result.shares[model]
    found = {
        "image": result.name,
        "width": width,
        "height": height,
        "model": result.models[model],
        "tiled": prediction.tiled,
        "mean_confidence": result.mean_confidences[model],
        "classes": [
            {"index": number, "name": label.name, "color": label.color, "share": shares[number]}
            for number, label in enumerate(prediction.table.classes)
        ],
    }
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")


# What a button of the page says -> the end of the file's name, and what writes it.
FILES: dict[str, tuple[str, Callable[[Path, Result, int, Choice], None]]] = {
    "Index PNG": ("index.png", write_index),
    "Overlay PNG": ("overlay.png", write_overlay),
    "JSON": ("result.json", write_json),
}
