"""Regions in which a network is sure that the label is wrong.

A pixel is doubtful if its most probable class is not the given one, and if the given one has a
probability below MAX_QUALITY. A suspect region: doubtful pixels with the same given and the same
suggested class that are connected, over corners too (8 neighbours), at least MIN_PIXELS, and whose
suggested class has a mean probability of at least MIN_CONFIDENCE. Its score is the mean cross
entropy of its label times the logarithm of its pixels. Ignored pixels are never doubtful.

These rules were chosen by labels of CamVid that were flipped at random: the first 100 suspects
point at more different flips than with the thresholds per class of confident learning (Northcutt,
Jiang and Chuang, JAIR 2021), or in the order of the sum or mean of the cross entropy, of
self-confidence, or of the expected number of wrong pixels (benchmarks/label_errors.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_PIXELS = 16
# Smaller probabilities count as this one in the cross entropy.
_SMALLEST = 1e-12
MAX_QUALITY, MIN_CONFIDENCE = 0.1, 0.5
DEFINITION = (
    f"connected pixels of one label that has a probability below {MAX_QUALITY}, and whose most "
    f"probable class is the same other one, {MIN_CONFIDENCE} or more on average; {MIN_PIXELS} "
    "pixels or more; score: mean cross entropy of the label times the logarithm of the pixels"
)


@dataclass(frozen=True)
class Region:
    """Connected pixels of an image with one given and one suggested class.

    `box`: x, y, width, height in pixels. `quality`: mean probability of the given class (the
    self-confidence of the label). `confidence`: mean probability of the suggested class. `loss`:
    mean cross entropy of the given class.
    """

    given: int
    suggested: int
    box: tuple[int, int, int, int]
    pixels: int
    quality: float
    confidence: float
    loss: float
    packed: NDArray[np.uint8] = field(repr=False)

    @property
    def score(self) -> float:
        """The mean cross entropy of the label times the logarithm of the pixels."""
        return self.loss * math.log(self.pixels)

    @property
    def shape(self) -> NDArray[np.bool_]:
        """The pixels of the region within its box: (height, width)."""
        _, _, width, height = self.box
        bits = np.unpackbits(self.packed, count=width * height)
        return bits.reshape(height, width).astype(bool)


@dataclass(frozen=True)
class Disagreement:
    """The n labelled pixels of an image (H, W) whose most probable class is not the given one.

    `where`: their places in the flat image. `given`, `suggested`: class numbers. `quality`,
    `confidence`: the probabilities of these two classes. All arrays (n,).
    """

    size: NDArray[np.int64]
    where: NDArray[np.int64]
    given: NDArray[np.int32]
    suggested: NDArray[np.int32]
    quality: NDArray[np.float32]
    confidence: NDArray[np.float32]


def disagreement(
    mask: NDArray[Any],
    labels: NDArray[Any],
    confidence: NDArray[np.float32],
    quality: NDArray[np.float32],
    num_classes: int,
) -> Disagreement:
    """Return the labelled pixels whose most probable class is another one.

    `labels`: the most probable classes; `confidence`, `quality`: their probability, and that of the
    given class. All arrays (H, W); `mask` holds 0..K-1 or larger numbers for ignored pixels.
    """
    where = np.flatnonzero((mask != labels) & (mask < num_classes))
    given, suggested, quality, confidence = (
        array.ravel()[where] for array in (mask, labels, quality, confidence)
    )
    return Disagreement(
        np.array(mask.shape),
        where,
        given.astype(np.int32),
        suggested.astype(np.int32),
        quality.astype(np.float32),
        confidence.astype(np.float32),
    )


def find_regions(
    found: Disagreement,
    max_quality: float = MAX_QUALITY,
    min_confidence: float = MIN_CONFIDENCE,
) -> list[Region]:
    """Return the suspect regions of an image: the label less, the suggestion more probable."""
    doubtful = np.flatnonzero(found.quality < max_quality)
    codes = found.given[doubtful].astype(np.int64) << 16 | found.suggested[doubtful]
    order = np.argsort(codes, kind="stable")
    ends = np.flatnonzero(np.diff(codes[order])) + 1
    groups = np.split(doubtful[order], ends) if len(order) else []
    return [
        region
        for group in groups
        if len(group) >= MIN_PIXELS
        for region in _connected(found, group)
        if region.confidence >= min_confidence
    ]


def _connected(found: Disagreement, chosen: NDArray[np.intp]) -> Iterator[Region]:
    """Yield the connected parts of pixels that agree in their two classes."""
    rows, columns = np.divmod(found.where[chosen], found.size[1])
    top, left = rows.min(), columns.min()
    rows, columns = rows - top, columns - left
    canvas = np.zeros((rows.max() + 1, columns.max() + 1), np.uint8)
    canvas[rows, columns] = 1
    count, numbers, boxes, _ = cv2.connectedComponentsWithStats(canvas, connectivity=8)
    of_part = numbers[rows, columns]
    quality, confidence = found.quality[chosen], found.confidence[chosen]
    losses = -np.log(np.maximum(quality, _SMALLEST))
    sums = [
        np.bincount(of_part, weights=values, minlength=count)
        for values in (quality, confidence, losses)
    ]
    for number in range(1, count):
        x, y, width, height, pixels = boxes[number].tolist()
        if pixels < MIN_PIXELS:
            continue
        means = [float(total[number] / pixels) for total in sums]
        yield Region(
            given=int(found.given[chosen[0]]),
            suggested=int(found.suggested[chosen[0]]),
            box=(int(left) + x, int(top) + y, width, height),
            pixels=pixels,
            quality=means[0],
            confidence=means[1],
            loss=means[2],
            packed=np.packbits(numbers[y : y + height, x : x + width] == number),
        )
