"""The predictions of an evaluation that are kept for pictures."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.data.datasets import Sample
from sceneparse.report.pictures import Example
from sceneparse.runtime.distributed import gather

# Side of the grey thumbnails by which images are compared. Two images show one scene if their
# thumbnails correlate by at least _ALIKE, or by at least _ALIKE_NEIGHBOURS if they are neighbours:
# in the order of names, less than the share _NEAR of all images lies between them, or if that
# leaves too few, less than the next share.
_SIDE, _ALIKE, _ALIKE_NEIGHBOURS, _NEAR = 32, 0.9, 0.5, (1 / 8, 1 / 16, 1 / 32, 0)
# Images are chosen from the worst or best ones: this share of all, and at least so many.
_SHARE, _MIN_CANDIDATES = 1 / 3, 16
_MIN_SHOWN = 3


class Samples(Protocol):
    """Image (H, W, 3), mask (H, W) and name of each number."""

    def __getitem__(self, number: int, /) -> Sample: ...


class _Packed(NamedTuple):
    """A compressed label map (H, W): many of them are kept, few are drawn."""

    content: bytes
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, labels: NDArray[Any]) -> _Packed:
        """Compress a label map fast."""
        return cls(zlib.compress(labels.tobytes(), level=1), labels.shape, labels.dtype)

    def unpacked(self) -> NDArray[Any]:
        """Return the label map (H, W)."""
        flat = np.frombuffer(bytearray(zlib.decompress(self.content)), self.dtype)
        return flat.reshape(self.shape)


class KeptExamples:
    """Keeps the predictions of `some` images of a dataset and of its worst and best images.

    By default of more than a page shows, so that `scenes` has a choice. `scores`: the mean IoU of
    these images, by their number.
    """

    def __init__(
        self, dataset: Samples, some: Sequence[int], *, worst: int = 64, best: int = 24
    ) -> None:
        self._dataset, self._worst, self._best = dataset, worst, best
        self.some, self.scores = some, dict[int, float]()
        self._labels: dict[int, Any] = {}  # packed but for those that are just added
        self._looks: dict[int, NDArray[np.float64]] = {}

    def add(self, number: int, labels: Tensor | NDArray[Any], score: float) -> None:
        """Add the labels (H, W) of an image and its mean IoU; drop predictions no longer needed."""
        self.scores[number], self._labels[number] = score, labels
        self._keep_wanted()
        if number in self._labels:
            self._labels[number] = _Packed.of(torch.as_tensor(labels).cpu().numpy())

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

    def scenes(self, worst: int, best: int, images: int) -> dict[str, list[int]]:
        """Return up to so many of the worst and best images, each of another scene.

        They are chosen from those that are kept. `images`: how many the dataset has.
        """
        kept, most = self.by_score(), max(round(_SHARE * images), _MIN_CANDIDATES)
        chosen = self.of_different_scenes(kept["Worst images"][:most], worst, images)
        others = [*kept["Best images"], *reversed(kept["Worst images"])]
        left = [number for number in others if number not in chosen][: min(most, self._best)]
        return {
            "Worst images": chosen,
            "Best images": self.of_different_scenes(left, best, images),
        }

    def of_different_scenes(self, numbers: Sequence[int], count: int, images: int) -> list[int]:
        """Return up to `count` of the numbers in their order, of different scenes.

        Greedy: each is taken unless it shows the scene of an earlier one. Only to reach three are
        images of one scene taken. `images`: how many the dataset has.
        """
        chosen: list[int] = []
        for share in _NEAR:
            for number in numbers:
                if len(chosen) == count:
                    break
                if not any(self._is_same_scene(number, k, share * images) for k in chosen):
                    chosen.append(number)
        others = [number for number in numbers if number not in chosen]
        chosen += others[: max(min(count, _MIN_SHOWN) - len(chosen), 0)]
        return [number for number in numbers if number in chosen]

    def _is_same_scene(self, first: int, second: int, distance: float) -> bool:
        """Return whether two images look alike; neighbours are nearer than `distance`."""
        is_near = abs(first - second) < distance
        looks = self._look(first) @ self._look(second)
        return bool(looks >= (_ALIKE_NEIGHBOURS if is_near else _ALIKE))

    def _look(self, number: int) -> NDArray[np.float64]:
        """Return the grey thumbnail of an image, of mean 0 and length 1: products correlate."""
        if number not in self._looks:
            image = cv2.cvtColor(self._dataset[number][0], cv2.COLOR_RGB2GRAY)
            small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).ravel()
            grey = small.astype(np.float64) - small.mean()
            self._looks[number] = grey / max(float(np.linalg.norm(grey)), 1e-6)
        return self._looks[number]

    def example(self, number: int) -> Example:
        """Read an image and its truth, and add its prediction."""
        image, truth, name = self._dataset[number]
        return Example(name, image, truth, self._labels[number].unpacked())
