"""Do two images show the same picture? Small fingerprints that answer fast, for many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Two images count as the same picture where both their 16x16 gradient signs and their 32x32
# thumbnails agree: few signs differ, and grey values differ little on average.
_HASH_SIDE = 16
_MOST_SIGNS = 26
_THUMBNAIL_SIDE = 32
_MOST_GREY = 8.0
# The gradient signs of an almost uniform image are noise.
_LEAST_CONTRAST = 4.0
_BLOCK = 1024


@dataclass(frozen=True)
class Likeness:
    """The fingerprint of an image: signs (256,) of its gradients, grey thumbnail (32, 32)."""

    signs: NDArray[np.bool_]
    thumbnail: NDArray[np.uint8]

    @property
    def says_something(self) -> bool:
        """Whether the image has enough contrast to be told from others."""
        return float(self.thumbnail.std()) >= _LEAST_CONTRAST


def likeness_of(image: NDArray[np.uint8]) -> Likeness:
    """Compute the fingerprint of an RGB image (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = _shrink(grey, (_HASH_SIDE + 1, _HASH_SIDE))
    thumbnail = _shrink(grey, (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    # The difference hash: is each cell brighter than its right neighbour?
    return Likeness((small[:, :-1] > small[:, 1:]).ravel(), thumbnail)


def _shrink(grey: Any, size: tuple[int, int]) -> NDArray[np.uint8]:  # noqa: ANN401 - OpenCV's
    small: Any = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    result: NDArray[np.uint8] = small
    return result


def alike_pairs(
    first: Sequence[Likeness], second: Sequence[Likeness]
) -> list[tuple[int, int, float]]:
    """Find all (i, j) with first[i] like second[j], and how much their grey values differ.

    Pairs of an image with itself, where both lists are the same, are left out; so are images
    without contrast.
    """
    ours = [i for i, likeness in enumerate(first) if likeness.says_something]
    theirs = [j for j, likeness in enumerate(second) if likeness.says_something]
    if not ours or not theirs:
        return []
    others = _plus_minus([second[j] for j in theirs])
    found = []
    for start in range(0, len(ours), _BLOCK):
        block = ours[start : start + _BLOCK]
        # The product of +-1 vectors counts agreements minus differences.
        different = (_HASH_SIDE**2 - _plus_minus([first[i] for i in block]) @ others.T) / 2
        for row, column in zip(*np.nonzero(different <= _MOST_SIGNS), strict=True):
            i, j = block[row], theirs[column]
            if first is second and i >= j:
                continue
            difference = _grey_difference(first[i], second[j])
            if difference <= _MOST_GREY:
                found.append((i, j, difference))
    return found


def _plus_minus(likenesses: Sequence[Likeness]) -> NDArray[np.float32]:
    signs = np.stack([likeness.signs for likeness in likenesses])
    return np.where(signs, 1, -1).astype(np.float32)


def _grey_difference(first: Likeness, second: Likeness) -> float:
    """Mean difference of the thumbnails in grey values, after their means are made equal."""
    a, b = first.thumbnail.astype(float), second.thumbnail.astype(float)
    return float(np.abs((a - a.mean()) - (b - b.mean())).mean())
