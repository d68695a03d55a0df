"""Where a model loses: in regions of which size, and how far from boundaries.

Region: the pixels of a class in the truth that are connected, over corners too (8 neighbours).
Small: below 32 x 32 pixels, large: 96 x 96 or more, medium: between, as COCO divides objects.
Region recall: of the pixels in regions of a size, the share that is predicted right. A region is
found if at least half of its pixels are right.
Accuracy by distance: of the pixels of a class whose distance to the nearest pixel of another class,
or of none, is within bounds, the share that is predicted right. The border of the image is no
boundary. Ignored pixels do not count, and belong to no class.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.metrics.confusion import ratio

SIZES = ("small", "medium", "large")
# Pixels from which on a region is medium, and large.
_BOUNDS = (32**2, 96**2)
# Distances in pixels at which bands end; the last band has no end.
DISTANCES = (2, 5, 10, 20)
_ROWS = ("pixels", "right", "regions", "found")
DEFINITION = (
    "connected pixels of a class (8 neighbours), small below 32x32 pixels, large from 96x96 on; "
    "recall: share of their pixels that is right; distances: to the nearest pixel of another class "
    "or of none"
)


class RegionCounts:
    """Counts by size of regions (4, 3, K) and by distance to boundaries (2, 5, K), int64."""

    needs_confidence = False

    def __init__(
        self, num_classes: int, ignore_index: int, device: torch.device | str = "cpu"
    ) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        shape = len(_ROWS), len(SIZES), num_classes
        self.by_size = torch.zeros(shape, dtype=torch.int64, device=device)
        shape = 2, len(DISTANCES) + 1, num_classes
        self.by_distance = torch.zeros(shape, dtype=torch.int64, device=device)

    def update(self, labels: Tensor, targets: Tensor, confidence: Tensor | None = None) -> None:
        """Count labels of equal shape (B, H, W): predictions 0..K-1, targets 0..K-1 or ignored."""
        for label, target in zip(labels, targets, strict=True):
            truth, right = target.cpu().numpy(), (label == target).cpu().numpy()
            for number, (mask, hits) in self._masks(truth, right):
                sizes, distances = _size_counts(mask, hits), _distance_counts(mask, hits)
                self.by_size[:, :, number] += torch.from_numpy(sizes).to(self.by_size.device)
                found = torch.from_numpy(distances).to(self.by_distance.device)
                self.by_distance[:, :, number] += found

    def _masks(
        self, truth: NDArray[Any], right: NDArray[np.bool_]
    ) -> Iterator[tuple[int, tuple[NDArray[np.uint8], NDArray[np.bool_]]]]:
        """Yield the classes in a truth (H, W), and in a box around each where it is, and is right.

        The nearest pixel outside a class is at most one pixel beyond its box.
        """
        for number in np.unique(truth):
            if number != self.ignore_index:
                mask = (truth == number).astype(np.uint8)
                x, y, width, height = cv2.boundingRect(mask)
                box = np.s_[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
                yield int(number), (np.ascontiguousarray(mask[box]), right[box])

    def state(self) -> list[Tensor]:
        """Return the tensors to sum over processes."""
        return [self.by_size, self.by_distance]

    def keep(self, classes: int) -> None:
        """Keep the counts of the first classes only."""
        self.by_size = self.by_size[..., :classes]
        self.by_distance = self.by_distance[..., :classes]

    def region_recall(self) -> NDArray[np.float64]:
        """Return the region recall by size and class (3, K), NaN without such regions."""
        pixels, right = self.by_size[:2].cpu().numpy()
        return ratio(right, pixels)

    def regions(self) -> NDArray[np.int64]:
        """Return how many regions there are and how many are found: (2, 3, K)."""
        return self.by_size[2:].cpu().numpy()

    def accuracy_by_distance(self) -> NDArray[np.float64]:
        """Return the accuracy by distance and class (5, K), NaN without such pixels."""
        pixels, right = self.by_distance.cpu().numpy()
        return ratio(right, pixels)


def distance_names() -> list[str]:
    """Return the names of the bands: "up to 2 px", "2 to 5 px", ..., "over 20 px"."""
    between = [f"{low} to {high} px" for low, high in pairwise(DISTANCES)]
    return [f"up to {DISTANCES[0]} px", *between, f"over {DISTANCES[-1]} px"]


def _size_counts(mask: NDArray[np.uint8], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count pixels, right ones, regions and found ones by size: (4, 3)."""
    count, numbers = cv2.connectedComponents(mask, connectivity=8)
    pixels = np.bincount(numbers.ravel(), minlength=count)[1:]
    hits = np.bincount(numbers[right].ravel(), minlength=count)[1:]
    sizes = np.searchsorted(_BOUNDS, pixels, side="right")
    rows = (pixels, hits, np.ones_like(pixels), 2 * hits >= pixels)
    totals = [np.bincount(sizes, weights=row, minlength=len(SIZES)) for row in rows]
    return np.stack(totals).astype(np.int64)


def _distance_counts(mask: NDArray[np.uint8], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count pixels and right ones by their distance to the nearest pixel outside: (2, 5)."""
    distances = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = mask > 0
    bands = np.searchsorted(DISTANCES, distances[inside], side="left")
    weights = (None, right[inside])
    totals = [np.bincount(bands, weights=w, minlength=len(DISTANCES) + 1) for w in weights]
    return np.stack(totals).astype(np.int64)
