"""The confusion matrix of all images, counts per image, and scores from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]
# The classes in the mean, if some are in neither truth nor prediction.
ABSENT_CLASS_RULES = {
    "cityscapes": "a class with no pixel in truth and prediction is left out of the mean; one that "
    "is only predicted counts 0 (rule of the Cityscapes evaluation script)",
    "truth_only": "only classes with pixels in the truth are in the mean",
    "absent_is_zero": "a class with no pixel in truth and prediction counts 0 (rule of the public "
    "SPNet code and of ADE20K's; lowers the mean on small sets)",
    "absent_is_one": "a class with no pixel in truth and prediction counts 1 (rule of "
    "segmentation_models.pytorch's iou_score; raises the mean on small sets)",
}
# Rows of the counts kept per image.
RIGHT, TRUTH, PREDICTED = 0, 1, 2


class ConfusionMatrix:
    """Counts of the pixels whose truth is not ignored, int64.

    `counts` (K, K): a row per true class, a column per predicted one, over all images. `by_image`
    (N, 3, K): right, true and predicted pixels per image and class, for intervals.
    `image_numbers`: which of the `total_images` images this process counts, in order.
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
        size = self.num_classes
        for label, target in zip(labels, targets, strict=True):
            counted = target != self.ignore_index
            pairs = target[counted].long() * size + label[counted].long()
            counts = torch.bincount(pairs, minlength=size**2)
            if len(counts) != size**2:
                raise ValueError(f"labels outside 0..{size - 1} reached the confusion matrix")
            counts = counts.view(size, size)
            self.counts += counts
            if len(self.by_image):
                rows = torch.stack([counts.diagonal(), counts.sum(1), counts.sum(0)])
                self.by_image[next(self._numbers)] = rows

    def state(self) -> list[Tensor]:
        """Return the tensors to sum over processes."""
        return [self.counts, self.by_image]


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1; per class (K,), NaN if the denominator is 0.

    Mean IoU and mean Dice are over the classes of the rule, mean accuracy over those in the truth,
    all three without excluded classes.
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


def scores_from_counts(
    counts: Counts, rule: str = "cityscapes", excluded: Sequence[int] = ()
) -> Scores:
    """Return the scores of a confusion matrix (K, K); `rule` is one of ABSENT_CLASS_RULES.

    `excluded` classes count in no mean; their pixels remain wrong predictions of other classes.
    Per class over all images together: IoU = TP / (TP + FP + FN), accuracy (recall)
    = TP / (TP + FN), precision = TP / (TP + FP), Dice (F1) = 2 TP / (2 TP + FP + FN).
    """
    right, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    total = counts.sum()
    iou, dice = class_iou(right, truth, predicted), ratio(2 * right, truth + predicted)
    accuracy = ratio(right, truth)
    seen = truth > 0
    return Scores(
        mean_iou=float(mean_iou(right, truth, predicted, rule, excluded)),
        pixel_accuracy=float(ratio(right.sum(), total)),
        frequency_weighted_iou=float((truth / total * iou)[seen].sum()) if total else math.nan,
        mean_accuracy=float(mean_by_rule(accuracy, truth, predicted, "truth_only", excluded)),
        mean_dice=float(mean_by_rule(dice, truth, predicted, rule, excluded)),
        iou=iou,
        accuracy=accuracy,
        precision=ratio(right, predicted),
        dice=dice,
        pixels=truth,
    )


def class_iou(
    right: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) from counts of any shape; NaN if a class has no pixels."""
    return ratio(right, truth + predicted - right)


def mean_iou(
    right: NDArray[Any],
    truth: NDArray[Any],
    predicted: NDArray[Any],
    rule: str = "cityscapes",
    excluded: Sequence[int] = (),
) -> NDArray[np.float64]:
    """Return mean IoU over the last axis of counts (..., K); NaN if no class counts."""
    return mean_by_rule(class_iou(right, truth, predicted), truth, predicted, rule, excluded)


def mean_by_rule(
    scores: NDArray[np.float64],
    truth: NDArray[Any],
    predicted: NDArray[Any],
    rule: str,
    excluded: Sequence[int] = (),
) -> NDArray[np.float64]:
    """Average scores (..., K) over the classes in the mean by one of ABSENT_CLASS_RULES.

    The NaN of a class in the mean counts 0, or 1 with "absent_is_one". Classes in `excluded` are
    never in the mean.
    """
    present = truth + predicted > 0
    every = np.broadcast_to(present.any(axis=-1, keepdims=True), present.shape)
    in_mean = {
        "cityscapes": present,
        "truth_only": truth > 0,
        "absent_is_zero": every,
        "absent_is_one": every,
    }[rule] & ~np.isin(np.arange(scores.shape[-1]), excluded)
    known = np.nan_to_num(scores, nan=float(rule == "absent_is_one"))
    return ratio((known * in_mean).sum(axis=-1), in_mean.sum(axis=-1))


def group_counts(counts: Counts, groups: Sequence[str]) -> tuple[list[str], Counts]:
    """Sum the counts of the classes of each group: (K, K) -> names of the groups, (G, G)."""
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for name in names] for group in groups], dtype=np.int64)
    return names, member.T @ counts @ member


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; the result is NaN if `whole` is 0."""
    result = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=result, where=np.asarray(whole) > 0)
    return result
