"""Scores from exact integer counts: the confusion matrix and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ABSENT_CLASS_RULE = (
    "a class with no pixel in truth and prediction is left out of the mean; one that is only "
    "predicted counts 0 (rule of the Cityscapes evaluation script)"
)


class ConfusionMatrix:
    """Pixel counts, int64: a row per true class, a column per predicted; ignored truth is out."""

    def __init__(
        self, num_classes: int, ignore_index: int, device: torch.device | str = "cpu"
    ) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count labels of equal shape. Predictions must be 0..K-1, targets 0..K-1 or ignored."""
        counted = targets != self.ignore_index
        pairs = targets[counted].long() * self.num_classes + predictions[counted].long()
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        if len(counts) != self.num_classes**2:
            raise ValueError(
                f"labels outside 0..{self.num_classes - 1} reached the confusion matrix"
            )
        self.counts += counts.view(self.num_classes, self.num_classes)

    def scores(self) -> Scores:
        """Compute all scores from the counts so far."""
        return scores_from_counts(self.counts.cpu().numpy())


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1; per class (K,), NaN where a class is in neither truth nor prediction."""

    mean_iou: float
    pixel_accuracy: float
    frequency_weighted_iou: float
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    pixels: NDArray[np.int64]


def scores_from_counts(counts: NDArray[np.int64]) -> Scores:
    """Compute scores from a confusion matrix (K, K); see ABSENT_CLASS_RULE.

    IoU = TP / (TP + FP + FN), accuracy = TP / (TP + FN), both over all images together.
    """
    right = np.diag(counts)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    union = truth + predicted - right
    iou, accuracy = _ratio(right, union), _ratio(right, truth)
    total = int(counts.sum())
    seen = truth > 0
    return Scores(
        mean_iou=float(np.nanmean(iou)) if np.any(union) else float("nan"),
        pixel_accuracy=int(right.sum()) / total if total else float("nan"),
        frequency_weighted_iou=(
            float((truth[seen] / total * iou[seen]).sum()) if total else float("nan")
        ),
        iou=iou,
        accuracy=accuracy,
        pixels=truth,
    )


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio = np.full(len(part), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
