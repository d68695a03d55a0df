"""The confusion matrix, of all images together and boiled down for each, and scores from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]
# Which classes the mean is over, where some are in neither truth nor prediction.
ABSENT_CLASS_RULES = {
    "cityscapes": "a class with no pixel in truth and prediction is left out of the mean; one that "
    "is only predicted counts 0 (rule of the Cityscapes evaluation script)",
    "truth_only": "only classes with pixels in the truth are in the mean",
    "absent_is_zero": "a class with no pixel in truth and prediction counts 0 (rule of the public "
    "SPNet code; lowers the mean on small sets)",
}
# Rows of the counts kept per image.
RIGHT, TRUTH, PREDICTED = 0, 1, 2


class ConfusionMatrix:
    """Pixel counts, int64; ignored truth is out.

    `counts` (K, K): a row per true class, a column per predicted one, over all images. `by_image`
    (N, 3, K): right, true and predicted pixels of each image and class, for intervals.
    `image_numbers` tells which of the `total_images` images come, in order.
    """

    needs_confidence = False

    def __init__(
        self,
        num_classes: int,
        ignore_index: int,
        image_numbers: Sequence[int] = (),
        total_images: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.by_image = torch.zeros(total_images, 3, num_classes, dtype=torch.int64, device=device)
        self._numbers = iter(image_numbers)

    def update(self, labels: Tensor, targets: Tensor, confidence: Tensor | None = None) -> None:
        """Count labels of equal shape (B, H, W): predictions 0..K-1, targets 0..K-1 or ignored."""
        for label, target in zip(labels, targets, strict=True):
            counts = self._count(label, target)
            self.counts += counts
            if len(self.by_image):
                stats = torch.stack([counts.diagonal(), counts.sum(1), counts.sum(0)])
                self.by_image[next(self._numbers)] = stats

    def _count(self, labels: Tensor, targets: Tensor) -> Tensor:
        size = self.num_classes
        counted = targets != self.ignore_index
        pairs = targets[counted].long() * size + labels[counted].long()
        counts = torch.bincount(pairs, minlength=size**2)
        if len(counts) != size**2:
            raise ValueError(f"labels outside 0..{size - 1} reached the confusion matrix")
        return counts.view(size, size)

    def state(self) -> list[Tensor]:
        """Return the tensors that add up over processes."""
        return [self.counts, self.by_image]


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1; per class (K,), NaN where a ratio has nothing below its line.

    Mean IoU and mean Dice are over the classes of the rule, mean accuracy over those in the truth.
    """

    mean_iou: float
    pixel_accuracy: float
    frequency_weighted_iou: float
    mean_accuracy: float
    mean_dice: float
    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    precision: NDArray[np.float64]
    dice: NDArray[np.float64]
    pixels: Counts


def scores_from_counts(counts: Counts, rule: str = "cityscapes") -> Scores:
    """Compute scores from a confusion matrix (K, K); `rule` is one of ABSENT_CLASS_RULES.

    Per class over all images together: IoU = TP / (TP + FP + FN), accuracy (recall)
    = TP / (TP + FN), precision = TP / (TP + FP), Dice (F1) = 2 TP / (2 TP + FP + FN).
    """
    right = np.diag(counts)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    total = int(counts.sum())
    iou, dice = class_iou(right, truth, predicted), ratio(2 * right, truth + predicted)
    seen = truth > 0
    return Scores(
        mean_iou=float(mean_iou(right, truth, predicted, rule)),
        pixel_accuracy=int(right.sum()) / total if total else float("nan"),
        frequency_weighted_iou=(
            float((truth[seen] / total * iou[seen]).sum()) if total else float("nan")
        ),
        mean_accuracy=float(mean_by_rule(ratio(right, truth), truth, predicted, "truth_only")),
        mean_dice=float(mean_by_rule(dice, truth, predicted, rule)),
        iou=iou,
        accuracy=ratio(right, truth),
        precision=ratio(right, predicted),
        dice=dice,
        pixels=truth,
    )


def class_iou(
    right: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> NDArray[np.float64]:
    """Compute TP / (TP + FP + FN) from counts of any shape; NaN where a class is nowhere."""
    return ratio(right, truth + predicted - right)


def mean_iou(
    right: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any], rule: str = "cityscapes"
) -> NDArray[np.float64]:
    """Compute mean IoU over the last axis from counts (..., K); NaN where no class counts."""
    return mean_by_rule(class_iou(right, truth, predicted), truth, predicted, rule)


def mean_by_rule(
    scores: NDArray[np.float64], truth: NDArray[Any], predicted: NDArray[Any], rule: str
) -> NDArray[np.float64]:
    """Average scores (..., K) over the classes that are in the mean by one of ABSENT_CLASS_RULES.

    A score that is NaN counts 0 where its class is in the mean.
    """
    somewhere = truth + predicted > 0
    in_mean = {
        "cityscapes": somewhere,
        "truth_only": truth > 0,
        "absent_is_zero": np.broadcast_to(somewhere.any(axis=-1, keepdims=True), somewhere.shape),
    }[rule]
    return ratio((np.nan_to_num(scores) * in_mean).sum(axis=-1), in_mean.sum(axis=-1))


def group_counts(counts: Counts, groups: Sequence[str]) -> tuple[list[str], Counts]:
    """Add up the counts of classes of one group: (K, K) -> names, (G, G)."""
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for name in names] for group in groups], dtype=np.int64)
    return names, member.T @ counts @ member


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide, with NaN where `whole` is 0."""
    result = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result
