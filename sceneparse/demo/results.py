"""What the page gets of a prediction: maps that the browser draws, and files to download."""

import base64
import io
import json
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sceneparse.data.labels import count_labels
from sceneparse.data.resizing import Resize, resize_mask
from sceneparse.inference.predictor import Prediction
from sceneparse.report.pictures import index_picture, overlay

# Pixels of the long side of what the browser draws.
MAX_VIEW = 1600


class Choice(NamedTuple):
    """What an overlay shows: the opacity of colours, and classes not painted; None: backgrounds."""

    opacity: float = 0.5
    hidden: Collection[int] | None = None


@dataclass(frozen=True)
class Result:
    """The predictions of a picture by all models of the page."""

    name: str
    models: Sequence[str]
    predictions: Sequence[Prediction]

    @property
    def pixels(self) -> int:
        """Pixels of all predictions together."""
        return sum(prediction.labels.size for prediction in self.predictions)

    def differing(self, order: Sequence[int] | None) -> float | None:
        """Return the share of pixels in which two predictions differ.

        `order`: see class_order; None: nothing can be compared.
        """
        if order is None:
            return None
        first, second = (prediction.labels for prediction in self.predictions)
        return float((np.asarray(order, first.dtype)[second] != first).mean())


def class_order(first: Sequence[str], second: Sequence[str]) -> list[int] | None:
    """Return the number in `first` of each class in `second`; None if the classes differ."""
    numbers = {name: number for number, name in enumerate(first)}
    if len(numbers) != len(first) or sorted(first) != sorted(second):
        return None
    return [numbers[name] for name in second]


def maps_to_draw(prediction: Prediction) -> dict[str, Any]:
    """Return labels and confidences of a prediction at the size of the view, and class shares.

    Maps are compressed bytes: labels of one byte, of two above 256 classes, low byte first;
    confidences of one byte, 255 being 1.
    """
    num_classes, confidence = prediction.table.num_classes, prediction.confidence
    labels = at_view_size(prediction.labels).astype(np.uint8 if num_classes <= 256 else "<u2")
    levels = None
    if confidence is not None:
        levels = _compressed((at_view_size(confidence) * 255).round().astype(np.uint8))
    return {
        "labels": _compressed(labels),
        "confidence": levels,
        "mean_confidence": _mean_confidence(prediction),
        "shares": _shares(prediction),
    }


def at_view_size(values: NDArray[Any]) -> NDArray[Any]:
    """Take the nearest pixels of a map (H, W), so that no side is longer than MAX_VIEW."""
    if max(values.shape) <= MAX_VIEW:
        return values
    return resize_mask(values, Resize("long", MAX_VIEW).size(*values.shape))


def _compressed(values: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes())).decode()


def _shares(prediction: Prediction) -> list[float]:
    """Return the share of the picture that each class covers, by number."""
    counts = count_labels(prediction.labels, prediction.table.num_classes)
    shares: list[float] = (counts / prediction.labels.size).tolist()
    return shares


def _mean_confidence(prediction: Prediction) -> float | None:
    confidence = prediction.confidence
    return None if confidence is None else float(confidence.mean(dtype=np.float64))


def _index_file(result: Result, model: int, _: Choice) -> bytes:
    prediction = result.predictions[model]
    return _png(index_picture(prediction.labels, prediction.table))


def _overlay_file(result: Result, model: int, choice: Choice) -> bytes:
    prediction = result.predictions[model]
    table, unpainted = prediction.table, None
    if choice.hidden is not None:
        unpainted = [number in choice.hidden for number in range(table.num_classes)]
    picture = overlay(
        prediction.image, prediction.labels, table, choice.opacity, unpainted=unpainted
    )
    return _png(Image.fromarray(picture))


def _json_file(result: Result, model: int, _: Choice) -> bytes:
    prediction = result.predictions[model]
    height, width = prediction.labels.shape
    shares = _shares(prediction)
    found = {
        "image": result.name,
        "width": width,
        "height": height,
        "model": result.models[model],
        "tiled": prediction.tiled,
        "mean_confidence": _mean_confidence(prediction),
        "classes": [
            {"index": number, "name": label.name, "color": label.color, "share": shares[number]}
            for number, label in enumerate(prediction.table.classes)
        ],
    }
    return json.dumps(found, indent=1, ensure_ascii=False).encode()


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)  # large overlays would take many seconds
    return stream.getvalue()


# Kind of a download -> its content, and its media type.
FILES: dict[str, tuple[Callable[[Result, int, Choice], bytes], str]] = {
    "index.png": (_index_file, "image/png"),
    "overlay.png": (_overlay_file, "image/png"),
    "result.json": (_json_file, "application/json"),
}
