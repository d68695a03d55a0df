"""How well borders are met: Boundary IoU and boundary F1.

Boundary IoU (Cheng et al., CVPR 2021): IoU of the pixels within d of their class's contour, d = 2%
of the image's diagonal; the image's rim and ignored pixels are contours. Boundary F1 (Csurka et
al., BMVC 2013): F1 of the pixels where classes meet, one being right with such a pixel of the same
class of the other map within 0.75% of the diagonal. Both from counts added up over all images.
Ignored pixels count in neither map.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.metrics.confusion import Counts, class_iou, mean_by_rule, mean_iou, ratio

_IOU_SHARE = 0.02
_F1_SHARE = 0.0075
DEFINITION = (
    "Boundary IoU of Cheng et al., 2021, within 2% of the diagonal; boundary F1 after Csurka et "
    "al., 2013, within 0.75% of it; both from the counts of all images added up"
)
# A label above all classes and not the ignored one, for what lies beyond the image's rim.
_BEYOND = 65534
# Rows of the counts: band pixels both, truth, prediction; contour pixels right and all of each map.
_ROWS = ("both", "truth", "predicted", "recalled", "contour", "precise", "drawn")


class BoundaryCounts:
    """Counts of pixels near contours, per class: (7, K), int64."""

    needs_confidence = False

    def __init__(
        self, num_classes: int, ignore_index: int, device: torch.device | str = "cpu"
    ) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(len(_ROWS), num_classes, dtype=torch.int64, device=device)

    def update(self, labels: Tensor, targets: Tensor, confidence: Tensor | None = None) -> None:
        """Count labels of equal shape (B, H, W): predictions 0..K-1, targets 0..K-1 or ignored."""
        for label, target in zip(labels, targets, strict=True):
            truth = target.cpu().numpy().astype(np.uint16)
            predicted = label.cpu().numpy().astype(np.uint16)
            # What has no truth counts in neither map, and ends the regions of both.
            predicted[truth == self.ignore_index] = self.ignore_index
            counts = np.stack(
                self._band_counts(truth, predicted) + self._contours(truth, predicted)
            )
            self.counts += torch.from_numpy(counts).to(self.counts.device)

    def state(self) -> list[Tensor]:
        """Return the tensors that add up over processes."""
        return [self.counts]

    def boundary_iou(self) -> NDArray[np.float64]:
        """Boundary IoU of each class, NaN where it is in neither map."""
        return class_iou(*self.counts[:3].cpu().numpy())

    def mean_boundary_iou(self, rule: str) -> float:
        """Mean over classes; `rule` is one of ABSENT_CLASS_RULES."""
        both, truth, predicted = self.counts[:3].cpu().numpy()
        return float(mean_iou(both, truth, predicted, rule))

    def boundary_f1(self) -> NDArray[np.float64]:
        """Boundary F1 of each class, 0 where only one map has it, NaN where neither has."""
        recalled, contour, precise, drawn = self.counts[3:].cpu().numpy()
        recall, precision = (
            np.nan_to_num(ratio(*x)) for x in ((recalled, contour), (precise, drawn))
        )
        f1 = np.nan_to_num(ratio(2 * recall * precision, recall + precision))
        return np.where(contour + drawn > 0, f1, np.nan)

    def mean_boundary_f1(self, rule: str) -> float:
        """Mean over classes; `rule` is one of ABSENT_CLASS_RULES."""
        _, contour, _, drawn = self.counts[3:].cpu().numpy()
        return float(mean_by_rule(self.boundary_f1(), contour, drawn, rule))

    def _band_counts(self, truth: NDArray[Any], predicted: NDArray[Any]) -> list[Counts]:
        distance = max(round(_IOU_SHARE * float(np.hypot(*truth.shape))), 1)
        near_truth, near_predicted = _band(truth, distance), _band(predicted, distance)
        both = near_truth & near_predicted & (truth == predicted)
        return [
            self._count(truth[both]),
            self._count(truth[near_truth]),
            self._count(predicted[near_predicted]),
        ]

    def _contours(self, truth: NDArray[Any], predicted: NDArray[Any]) -> list[Counts]:
        tolerance = _F1_SHARE * float(np.hypot(*truth.shape))
        edges = [
            np.where(_meets_another(labels, self.ignore_index), labels, self.ignore_index)
            for labels in (truth, predicted)
        ]
        result = []
        for ours, others in (edges, edges[::-1]):
            met = np.zeros(self.num_classes, dtype=np.int64)
            for k in set(np.unique(ours)) & set(np.unique(others)) - {self.ignore_index}:
                away = cv2.distanceTransform(
                    (others != k).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
                )
                met[k] = np.count_nonzero(away[ours == k] <= tolerance)
            result += [met, self._count(ours)]
        return result

    def _count(self, labels: NDArray[Any]) -> Counts:
        counted = labels[labels != self.ignore_index]
        return np.bincount(counted, minlength=self.num_classes).astype(np.int64)


def _band(labels: NDArray[Any], distance: int) -> NDArray[np.bool_]:
    """Find the pixels with another label, or the image's rim, within `distance` in x and y.

    A pixel is there exactly where `distance` erosions by 3x3 would take it from its class's mask.
    """
    rim = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(_BEYOND,))
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    largest, smallest = cv2.dilate(rim, kernel), cv2.erode(rim, kernel)
    inner = (slice(1, -1), slice(1, -1))
    near: NDArray[np.bool_] = (largest[inner] != labels) | (smallest[inner] != labels)
    return near


def _meets_another(labels: NDArray[Any], ignore_index: int) -> NDArray[np.bool_]:
    """Find the counted pixels one of whose eight neighbours is of another class."""
    counted = labels != ignore_index
    kernel = np.ones((3, 3), np.uint8)
    # Ignored neighbours are made the smallest, then the largest of all, so that they say nothing.
    largest = cv2.dilate(np.where(counted, labels, 0).astype(np.uint16), kernel)
    smallest = cv2.erode(np.where(counted, labels, _BEYOND).astype(np.uint16), kernel)
    meets: NDArray[np.bool_] = counted & ((largest != labels) | (smallest != labels))
    return meets
