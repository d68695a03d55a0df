"""Keep predictions for pictures during an evaluation, so that no image is predicted twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.report.pictures import Example
from sceneparse.runtime.distributed import gather

_WORST, _BEST = 6, 3


class KeptExamples:
    """Keeps the predictions of `some` images of a dataset and of its worst and best images."""

    def __init__(self, dataset: SegmentationDataset, some: Sequence[int]) -> None:
        self._dataset = dataset
        self._scores: dict[int, float] = {}
        self._labels: dict[int, NDArray[Any]] = {}
        self.some = some

    def add(self, number: int, labels: NDArray[Any], score: float) -> None:
        """Add the labels (H, W) of an image and its mean IoU; drop predictions no longer needed."""
        self._scores[number], self._labels[number] = score, labels
        self._keep_wanted()

    def gather(self) -> None:
        """Merge the predictions kept by all processes; each of them must call this."""
        self._scores = {k: score for part in gather(self._scores) for k, score in part.items()}
        self._keep_wanted()
        self._labels = {k: labels for part in gather(self._labels) for k, labels in part.items()}

    def _keep_wanted(self) -> None:
        wanted = {*self.some, *(k for chosen in self.by_score().values() for k in chosen)}
        self._scores = {k: score for k, score in self._scores.items() if k in wanted}
        self._labels = {k: labels for k, labels in self._labels.items() if k in wanted}

    def by_score(self) -> dict[str, list[int]]:
        """Return the numbers of the worst and the best images by mean IoU, by heading."""
        known = [(score, k) for k, score in self._scores.items() if not math.isnan(score)]
        order = [k for _, k in sorted(known)]
        worst, others = order[:_WORST], order[_WORST:]
        return {"Worst images": worst, "Best images": others[::-1][:_BEST]}

    def example(self, number: int) -> Example:
        """Read an image and its truth, and add its prediction."""
        image, truth, name = self._dataset[number]
        return Example(name, image, truth, self._labels[number])
