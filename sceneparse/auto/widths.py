"""Measure how wide the regions of each class are, by distances to their borders."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Labels

# Distances are exact on doubled masks only: else a bar of an odd width w gets 1 / w too much. Masks
# are doubled if their regions are not wide, up to this size.
_WIDE, _MAX_DOUBLED = 10, 16_000_000
_MAX_DISTANCE = 1e9  # cv2 gives more if there is no border

# The width of each region, and its pixels.
Regions = tuple[NDArray[np.float64], NDArray[np.int64]]


def region_widths(mask: Labels, label: int, ignore_index: int) -> Regions:
    """Return the width of each connected region of a label in a mask (H, W), and its pixels.

    The width is four times the mean distance to the border, that of a long bar; a disc gets two
    thirds of its diameter. The edge of the image is no border, nor are ignored pixels, unless they
    are most of the region's border, as an outline of ignored pixels is. No width is over the
    shorter side of the image.
    """
    box = _box_of(mask == label)
    if box is None:
        return np.empty(0), np.empty(0, np.int64)
    part = mask[box]
    regions = _Regions(part == label, part == ignore_index)
    widths = regions.widths(1)
    found = np.minimum(widths, min(mask.shape)), regions.pixels
    if (middle_width([found]) or 0) > _WIDE or 4 * part.size > _MAX_DOUBLED:
        return found
    return np.minimum(regions.widths(2), min(mask.shape)), regions.pixels


def middle_width(regions: Sequence[Regions]) -> float | None:
    """Return the width that half of all pixels of some regions exceed; None without regions."""
    widths = np.concatenate([np.empty(0), *(width for width, _ in regions)])
    pixels = np.concatenate([np.empty(0, np.int64), *(count for _, count in regions)])
    if not len(widths):
        return None
    order = np.argsort(widths)
    passed = np.cumsum(pixels[order])
    return float(widths[order][np.searchsorted(passed, passed[-1] / 2)])


def _box_of(inside: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Return the rows and columns of true pixels and one more on each side; None without any."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    return slice(top, int(rows[-1]) + 2), slice(left, int(columns[-1]) + 2)


class _Regions:
    """The connected regions of a class in a part of a mask: `inside` and `ignored`, (H, W)."""

    def __init__(self, inside: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> None:
        self._inside, self._ignored = inside, ignored
        count, numbers = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
        self._numbers, self._count = numbers, count
        self._number_at = numbers[inside]
        self.pixels = np.bincount(self._number_at, minlength=count)[1:]

    def widths(self, scale: int) -> NDArray[np.float64]:
        """Return four times the mean distances to the border, on a mask enlarged by `scale`."""
        closed = self._mean_distances(self._inside, scale)
        if not self._ignored.any():
            return 4 * closed
        opened = self._mean_distances(self._inside | self._ignored, scale)
        return 4 * np.where(self._mostly_ignored(), closed, opened)

    def _mean_distances(self, free: NDArray[np.bool_], scale: int) -> NDArray[np.float64]:
        """Return each region's mean distance to the nearest pixel that is not `free`.

        From the centre of a pixel, half a pixel less reaches the edge of that one.
        """
        height, width = free.shape
        large = np.repeat(np.repeat(free.astype(np.uint8), scale, 0), scale, 1)
        distances = cv2.distanceTransform(large, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        blocks = distances.reshape(height, scale, width, scale).mean((1, 3))[self._inside]
        sums = np.bincount(self._number_at, (blocks - 0.5) / scale, self._count)[1:]
        return np.minimum(sums / self.pixels, _MAX_DISTANCE)

    def _mostly_ignored(self) -> NDArray[np.bool_]:
        """Return for each region whether its border touches more ignored pixels than others."""
        cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
        touching, others = (
            np.bincount(self._numbers[cv2.dilate(beside, cross) > 0], minlength=self._count)
            for beside in (
                self._ignored.astype(np.uint8),
                (~self._inside & ~self._ignored).astype(np.uint8),
            )
        )
        return np.asarray(touching > others)[1:]
