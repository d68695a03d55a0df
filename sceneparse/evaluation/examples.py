"""Predictions kept for pictures while a dataset is evaluated, so that none is made twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.distributed import gather
from sceneparse.report.pictures import Example

_WORST, _BEST = 6, 3


@dataclass(frozen=True)
class Shown:
    """The images to show of an evaluation: some of the dataset, and by heading worst and best."""

    dataset: SegmentationDataset
    labels: Mapping[int, NDArray[Any]]
    some: Sequence[int]
    by_score: Mapping[str, Sequence[int]]

    def example(self, number: int) -> Example:
        """Read an image and its truth, beside what was predicted."""
        image, truth, name = self.dataset[number]
        return Example(name, image, truth, self.labels[number])


class KeptLabels:
    """Keeps the predicted labels of some images, and of the worst and best images seen so far."""

    def __init__(self, dataset: SegmentationDataset, some: Sequence[int]) -> None:
        self._dataset = dataset
        self._some = some
        self._scores: dict[int, float] = {}
        self._labels: dict[int, NDArray[Any]] = {}

    def add(self, number: int, labels: NDArray[Any], score: float) -> None:
        """Keep the labels (H, W) of an image by its mean IoU, and drop what is no longer needed."""
        self._scores[number], self._labels[number] = score, labels
        kept = self._wanted(self._scores)
        self._scores = {k: score for k, score in self._scores.items() if k in kept}
        self._labels = {k: labels for k, labels in self._labels.items() if k in kept}

    def collect(self) -> Shown:
        """Put together what all processes of the evaluation kept; each of them must call this."""
        scores = {k: score for part in gather(self._scores) for k, score in part.items()}
        wanted = self._wanted(scores)
        own = {k: labels for k, labels in self._labels.items() if k in wanted}
        labels = {k: labels for part in gather(own) for k, labels in part.items()}
        return Shown(self._dataset, labels, self._some, worst_and_best(scores))

    def _wanted(self, scores: Mapping[int, float]) -> set[int]:
        return {*self._some, *(k for chosen in worst_and_best(scores).values() for k in chosen)}


def worst_and_best(scores: Mapping[int, float]) -> dict[str, list[int]]:
    """Choose images by their mean IoU: their numbers, by heading."""
    order = [k for _, k in sorted((s, k) for k, s in scores.items() if not math.isnan(s))]
    worst, others = order[:_WORST], order[_WORST:]
    return {"Worst images": worst, "Best images": others[::-1][:_BEST]}
