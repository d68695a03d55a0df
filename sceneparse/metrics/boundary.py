"""Quality of boundaries: Boundary IoU and boundary F1, from counts summed over all images.

Boundary IoU (Cheng et al., CVPR 2021): IoU of the pixels within d of the contour of their class,
d = 2% of the diagonal; the border of the image and ignored pixels are contours. Boundary F1 (Csurka
et al., BMVC 2013): F1 of the pixels with a neighbour of another class; such a pixel is right if the
other map has one of the same class within 0.75% of the diagonal. Ignored pixels do not count.
"""

from collections.abc import Sequence
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
_OUTSIDE = 65534  # the label of pixels outside the image: above all classes, not the ignored one
# Rows of the counts: pixels near contours in both maps and in each; right and all contour pixels.
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
            # Ignored pixels of the truth are ignored in the prediction, and end its regions too.
            predicted[truth == self.ignore_index] = self.ignore_index
            counts = np.stack(self._bands(truth, predicted) + self._contours(truth, predicted))
            self.counts += torch.from_numpy(counts).to(self.counts.device)

    def state(self) -> list[Tensor]:
        """Return the tensors to sum over processes."""
        return [self.counts]

    def boundary_iou(self) -> NDArray[np.float64]:
        """Return Boundary IoU per class (K,), NaN if a class is in neither map."""
        return class_iou(*self.counts[:3].cpu().numpy())

    def mean_boundary_iou(self, rule: str, excluded: Sequence[int] = ()) -> float:
        """Return the mean over classes; `rule`, `excluded`: see mean_by_rule."""
        both, truth, predicted = self.counts[:3].cpu().numpy()
        return float(mean_iou(both, truth, predicted, rule, excluded))

    def boundary_f1(self) -> NDArray[np.float64]:
        """Return boundary F1 per class (K,), 0 if only one map has the class, NaN if neither."""
        recalled, contour, precise, drawn = self.counts[3:].cpu().numpy()
        recall = np.nan_to_num(ratio(recalled, contour))
        precision = np.nan_to_num(ratio(precise, drawn))
        f1 = np.nan_to_num(ratio(2 * recall * precision, recall + precision))
        return np.where(contour + drawn > 0, f1, np.nan)

    def mean_boundary_f1(self, rule: str, excluded: Sequence[int] = ()) -> float:
        """Return the mean over classes; `rule`, `excluded`: see mean_by_rule."""
        _, contour, _, drawn = self.counts[3:].cpu().numpy()
        return float(mean_by_rule(self.boundary_f1(), contour, drawn, rule, excluded))

    def _bands(self, truth: NDArray[Any], predicted: NDArray[Any]) -> list[Counts]:
        distance = max(round(_IOU_SHARE * float(np.hypot(*truth.shape))), 1)
        in_truth, in_prediction = _band(truth, distance), _band(predicted, distance)
        in_both = in_truth & in_prediction & (truth == predicted)
        return [*map(self._count, (truth[in_both], truth[in_truth], predicted[in_prediction]))]

    def _contours(self, truth: NDArray[Any], predicted: NDArray[Any]) -> list[Counts]:
        tolerance = _F1_SHARE * float(np.hypot(*truth.shape))
        edges = [_contour(labels, self.ignore_index) for labels in (truth, predicted)]
        result = []
        for own, other in (edges, edges[::-1]):
            right = np.zeros(self.num_classes, dtype=np.int64)
            for k in set(np.unique(own)) & set(np.unique(other)) - {self.ignore_index}:
                apart = (other != k).astype(np.uint8)
                distance = cv2.distanceTransform(apart, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                right[k] = np.count_nonzero(distance[own == k] <= tolerance)
            result += [right, self._count(own)]
        return result

    def _count(self, labels: NDArray[Any]) -> Counts:
        counted = labels[labels != self.ignore_index]
        return np.bincount(counted, minlength=self.num_classes).astype(np.int64)


def _band(labels: NDArray[Any], distance: int) -> NDArray[np.bool_]:
    """Find the pixels with another label, or the border of the image, within `distance` in x and y.

    They are the pixels that `distance` erosions by 3x3 remove from the masks of the classes.
    """
    framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(_OUTSIDE,))
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    largest, smallest = (
        filtered(framed, kernel)[1:-1, 1:-1] for filtered in (cv2.dilate, cv2.erode)
    )
    return np.asarray((largest != labels) | (smallest != labels))


def _contour(labels: NDArray[Any], ignore_index: int) -> NDArray[Any]:
    """Keep the labels of pixels with one of eight neighbours of another class; ignore the rest."""
    counted = labels != ignore_index
    kernel = np.ones((3, 3), np.uint8)
    # Ignored neighbours become the smallest, then the largest label, so that they have no effect.
    largest = cv2.dilate(np.where(counted, labels, 0).astype(np.uint16), kernel)
    smallest = cv2.erode(np.where(counted, labels, _OUTSIDE).astype(np.uint16), kernel)
    return np.where(counted & ((largest != labels) | (smallest != labels)), labels, ignore_index)
