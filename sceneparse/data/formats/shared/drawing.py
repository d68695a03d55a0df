"""Masks of shapes, as the tools that define the formats draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from sceneparse.data.decoding import MAX_IMAGE_PIXELS
from sceneparse.data.labels import Labels

# A shape this far outside an image, in its longest side, is damage; drawing takes long.
_MAX_OUTSIDE = 10
# More would not fit into 64 bits.
_MAX_RUN_CHARACTERS = 12

# Lengths of runs of zeros and ones in turn, down the columns of an image.
Runs = NDArray[np.int64]


def require_size(height: int, width: int) -> None:
    """Raise ValueError for a size that no image has."""
    if not (min(height, width) > 0 and height * width <= MAX_IMAGE_PIXELS):
        raise ValueError(f"no image is of {width}x{height} pixels")


def require_near(points: NDArray[np.float64], height: int, width: int) -> None:
    """Raise ValueError for coordinates that are not finite, or far outside the image."""
    limit = _MAX_OUTSIDE * max(height, width)
    if not (np.abs(points) <= limit).all():  # false for NaN too
        raise ValueError("a shape lies far outside the image")


def coco_runs(segmentation: Any, height: int, width: int) -> Runs:  # noqa: ANN401 - JSON
    """Return the run lengths of COCO's polygons or run lengths, drawn as pycocotools does.

    A polygon is [x, y, ...] of at least three points. Raises ValueError for anything else.
    """
    require_size(height, width)
    if isinstance(segmentation, Mapping):
        counts, size = segmentation["counts"], segmentation.get("size", [height, width])
        if list(size) != [height, width]:
            raise ValueError(f"run lengths of size {size} for a {width}x{height} image")
        runs = decode_runs(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    else:
        polygons = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
        for polygon in polygons:
            require_near(polygon, height, width)
        drawn = coco.frPyObjects([polygon.ravel() for polygon in polygons], height, width)
        runs = decode_runs(coco.merge(drawn)["counts"].decode())
    if runs.min(initial=0) < 0 or runs.max(initial=0) > height * width:
        raise ValueError(f"run lengths of {runs.min(initial=0)}..{runs.max(initial=0)} pixels")
    if runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum()} pixels for a {width}x{height} image")
    return runs


def decode_runs(text: str) -> Runs:
    """Decode COCO's text form: 5 bits per character, differences from the run before the last."""
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0) + 1
    starts = np.append(0, ends[:-1])[: len(ends)]
    lengths = ends - starts
    if len(ends) == 0 or ends[-1] != len(codes) or lengths.max() > _MAX_RUN_CHARACTERS:
        raise ValueError("a run length has too many digits")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends - 1] & 16, 1 << 5 * lengths, 0)  # negative numbers
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def fill_runs(pixels: Labels, runs: Runs, label: int) -> None:
    """Set the pixels in every second run to a label; `pixels` (W * H,) go down the columns."""
    edges = np.cumsum(runs).tolist()
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        pixels[start:end] = label


def paint_runs(
    regions: Sequence[Runs], labels: Sequence[int], height: int, width: int, blank: int
) -> Labels:
    """Paint regions into a mask (H, W) of `blank`: small ones cover large ones.

    Of regions of equal area the last is on top.
    """
    require_size(height, width)
    pixels = np.full(height * width, blank, np.uint8 if max(blank, *labels, 0) < 256 else np.uint16)
    areas = [-int(runs[1::2].sum()) for runs in regions]
    for number in np.argsort(areas, kind="stable"):
        fill_runs(pixels, regions[number], labels[number])
    # COCO's runs go down the columns.
    return np.asarray(cv2.transpose(pixels.reshape(width, height)))
