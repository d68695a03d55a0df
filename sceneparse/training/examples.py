"""The predictions of an evaluation that are kept for pictures."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.data.datasets import Sample
from sceneparse.report.pictures import Example
from sceneparse.runtime.distributed import gather


class Samples(Protocol):
    """Image (H, W, 3), mask (H, W) and name of each number."""

    def __getitem__(self, number: int, /) -> Sample: ...


class KeptExamples:
    """Keeps the predictions of `some` images of a dataset and of its worst and best images.

    `scores`: the mean IoU of these images, by their number.
    """

    def __init__(
        self, dataset: Samples, some: Sequence[int], *, worst: int = 6, best: int = 3
    ) -> None:
        self._dataset, self._worst, self._best = dataset, worst, best
        self.some, self.scores = some, dict[int, float]()
        self._labels: dict[int, Any] = {}

    def add(self, number: int, labels: Tensor | NDArray[Any], score: float) -> None:
        """Add the labels (H, W) of an image and its mean IoU; drop predictions no longer needed."""
        self.scores[number], self._labels[number] = score, labels
        self._keep_wanted()
        if number in self._labels:
            self._labels[number] = torch.as_tensor(labels).cpu().numpy()

    def gather(self) -> None:
        """Merge the predictions kept by all processes; each of them must call this."""
        self.scores = {k: score for part in gather(self.scores) for k, score in part.items()}
        self._keep_wanted()
        self._labels = {k: labels for part in gather(self._labels) for k, labels in part.items()}

    def _keep_wanted(self) -> None:
        wanted = {*self.some, *(k for chosen in self.by_score().values() for k in chosen)}
        self.scores = {k: score for k, score in self.scores.items() if k in wanted}
        self._labels = {k: labels for k, labels in self._labels.items() if k in wanted}

    def by_score(self) -> dict[str, list[int]]:
        """Return the numbers of the worst and the best images by mean IoU, by heading."""
        known = sorted((score, k) for k, score in self.scores.items() if not math.isnan(score))
        numbers = [k for _, k in known]
        worst, others = numbers[: self._worst], numbers[self._worst :]
        return {"Worst images": worst, "Best images": others[::-1][: self._best]}

    def example(self, number: int) -> Example:
        """Read an image and its truth, and add its prediction."""
        image, truth, name = self._dataset[number]
        return Example(name, image, truth, self._labels[number])
