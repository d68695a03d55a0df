"""Measure how wide the regions of each class are, by distances to their borders."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Labels

# Masks are doubled, so that distances to the borders of pixels are exact, up to this size.
_MAX_DOUBLED = 4_000_000
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
    inside, ignored = (part == label).astype(np.uint8), part == ignore_index
    count, numbers = cv2.connectedComponents(inside, connectivity=8)
    closed = _mean_distances(inside, inside, numbers, count)
    widths = closed
    if ignored.any():
        opened = _mean_distances((inside > 0) | ignored, inside, numbers, count)
        widths = np.where(_mostly_ignored(inside, ignored, numbers, count), closed, opened)
    pixels = np.bincount(numbers.ravel(), minlength=count)[1:]
    return np.minimum(4 * widths, min(mask.shape)), pixels


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


def _mean_distances(
    free: NDArray[np.generic], inside: NDArray[np.uint8], numbers: NDArray[np.int32], count: int
) -> NDArray[np.float64]:
    """Return the mean distance of each region's pixels to the edge of the nearest pixel not `free`.

    From the centres of a doubled mask, half of its pixel less reaches the edge of pixels.
    """
    scale = 2 if 4 * free.size <= _MAX_DOUBLED else 1
    doubled = np.ascontiguousarray(free.astype(np.uint8).repeat(scale, 0).repeat(scale, 1))
    distances = cv2.distanceTransform(doubled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distances = np.minimum((distances - 0.5) / scale, _MAX_DISTANCE)
    regions = numbers.repeat(scale, 0).repeat(scale, 1).ravel()
    sums = np.bincount(regions, distances.ravel(), count)
    return np.asarray((sums / np.maximum(np.bincount(regions, minlength=count), 1))[1:])


def _mostly_ignored(
    inside: NDArray[np.uint8], ignored: NDArray[np.bool_], numbers: NDArray[np.int32], count: int
) -> NDArray[np.bool_]:
    """Return for each region whether most pixels on its border touch ignored ones."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    near = cv2.dilate(ignored.astype(np.uint8), cross) > 0
    foreign = ((inside == 0) & ~ignored).astype(np.uint8)
    at_border = cv2.dilate(foreign, cross) > 0
    touching = np.bincount(numbers[near], minlength=count)
    others = np.bincount(numbers[at_border], minlength=count)
    return np.asarray(touching > others)[1:]
