"""The predictions of a picture by the models of a page: what is counted and drawn."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Color, count_labels
from sceneparse.inference.predictor import MAX_WHOLE, Prediction
from sceneparse.report.pages import layer_uri, picture_uri, shrunk_labels
from sceneparse.report.pictures import RED

# Pixels of the long side of what the browser draws.
MAX_VIEW = 1600
# From a low to a high confidence; also told apart by colour-blind people.
RAMP: list[Color] = [
    (red, green, blue)
    for red, green, blue, _ in mpl.colormaps["viridis"](range(256), bytes=True).tolist()
]
_EQUAL: Color = (244, 244, 244)


@dataclass(frozen=True)
class Result:
    """The predictions of a picture by one or two models, in the order of the models.

    `order`: the number in the first model of each class of the second; None: one model, or models
    of different classes. `notes`: what was noticed as the picture was read.
    """

    name: str
    models: Sequence[str]
    predictions: Sequence[Prediction]
    order: Sequence[int] | None
    seconds: float
    notes: Sequence[str]

    @cached_property
    def picture(self) -> str:
        """The picture as an address for an <img>."""
        return picture_uri(self.predictions[0].image, MAX_VIEW)

    @cached_property
    def shares(self) -> list[list[float]]:
        """The share of the picture that each class covers, per model, by number."""
        counted = [count_labels(p.labels, p.table.num_classes) for p in self.predictions]
        size = self.predictions[0].labels.size
        return [(counts / size).tolist() for counts in counted]

    @cached_property
    def mean_confidences(self) -> list[float | None]:
        """The mean confidence of each model; None: it gives labels alone."""
        found = [prediction.confidence for prediction in self.predictions]
        return [None if c is None else float(c.mean(dtype=np.float64)) for c in found]

    @property
    def lowest_confidence(self) -> float:
        """What a confidence has at least: the most probable of N classes has 1 / N or more."""
        return 1 / max(prediction.table.num_classes for prediction in self.predictions)

    @cached_property
    def differences(self) -> NDArray[np.bool_] | None:
        """The pixels (H, W) in which two models of the same classes differ; otherwise None."""
        if self.order is None:
            return None
        first, second = (prediction.labels for prediction in self.predictions)
        different: NDArray[np.bool_] = np.asarray(self.order, first.dtype)[second] != first
        return different

    @cached_property
    def _small_labels(self) -> list[NDArray[np.int32]]:
        """What is drawn again at every switch of a class."""
        return [shrunk_labels(prediction.labels, MAX_VIEW) for prediction in self.predictions]

    @property
    def description(self) -> str:
        """A line of what was predicted and how, and lines of what was noticed."""
        height, width = self.predictions[0].labels.shape
        facts = [f"{self.name}: {width} x {height} pixels, predicted in {self.seconds:.2f} s"]
        if any(prediction.tiled for prediction in self.predictions):
            facts.append(f"in tiles, since it has over {MAX_WHOLE // 10**6} million pixels")
        if max(height, width) > MAX_VIEW:
            facts.append(f"shown with {MAX_VIEW} pixels a side; downloads have full size")
        return "\n".join(["; ".join(facts), *self.notes])

    def layer(self, model: int, view: str, hidden: Collection[int]) -> str:
        """Draw what lies over the picture, as an address for an <img>.

        `view`: "classes" without the `hidden` ones, "confidence" or "differences". A model without
        confidences gets an empty layer.
        """
        if view == "differences" and self.differences is not None:
            return layer_uri(self.differences, [_EQUAL, RED], MAX_VIEW)
        if view == "confidence":
            confidence = self.predictions[model].confidence
            return _confidence_layer(confidence, self.lowest_confidence)
        labels = self._small_labels[model]
        shown = np.where(np.isin(labels, list(hidden)), 65535, labels)
        return layer_uri(shown, self.predictions[model].table.colors, MAX_VIEW)

    def at(self, model: int, x: float, y: float) -> str:
        """Return class and confidence at a place, x and y in 0..1 of width and height."""
        prediction = self.predictions[model]
        height, width = prediction.labels.shape
        place = min(int(y * height), height - 1), min(int(x * width), width - 1)
        name: str = prediction.table.names[prediction.labels[place]]
        if prediction.confidence is None:
            return name
        return f"{name}, confidence {prediction.confidence[place]:.2f}"


def _confidence_layer(confidence: NDArray[np.float32] | None, lowest: float) -> str:
    if confidence is None:
        return ""
    levels = (255 * (confidence - lowest) / (1 - lowest)).round().clip(0, 255)
    return layer_uri(levels, RAMP, MAX_VIEW)
