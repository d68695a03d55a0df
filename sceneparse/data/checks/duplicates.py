"""Find images that show the same picture, by small fingerprints that are compared fast."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Two images are duplicates if both their 16x16 gradient signs and their 32x32 thumbnails agree: few
# signs differ, and grey values differ little on average.
_HASH_SIDE = 16
_MAX_DIFFERENT_SIGNS = 26
_THUMBNAIL_SIDE = 32
_MAX_GREY_DIFFERENCE = 8.0
# The gradient signs of an almost uniform image are noise.
_MIN_CONTRAST = 4.0
_BLOCK = 1024


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of an image: signs (256,) of its gradients, grey thumbnail (32, 32)."""

    signs: NDArray[np.bool_]
    thumbnail: NDArray[np.uint8]


# Of an image that cannot be read; it has no duplicates.
BLANK = Fingerprint(np.zeros(_HASH_SIDE**2, bool), np.zeros((_THUMBNAIL_SIDE,) * 2, np.uint8))


def fingerprint_of(image: NDArray[np.uint8]) -> Fingerprint:
    """Compute the fingerprint of an RGB image (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sizes = (_HASH_SIDE + 1, _HASH_SIDE), (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    small, thumbnail = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for size in sizes)
    # The difference hash: is each cell brighter than its right neighbour?
    return Fingerprint((small[:, :-1] > small[:, 1:]).ravel(), thumbnail.astype(np.uint8))


def duplicate_pairs(
    first: Sequence[Fingerprint], second: Sequence[Fingerprint]
) -> list[tuple[int, int, float]]:
    """Return all (i, j) for which first[i] and second[j] show the same picture.

    The third number is the mean difference of their grey values. Images without contrast are
    skipped. If both lists are the same object, each pair comes once and no image is its own
    duplicate.
    """
    ours, theirs = (
        [i for i, fingerprint in enumerate(group) if fingerprint.thumbnail.std() >= _MIN_CONTRAST]
        for group in (first, second)
    )
    if not ours or not theirs:
        return []
    others = _plus_minus([second[j] for j in theirs])
    found = []
    for start in range(0, len(ours), _BLOCK):
        block = ours[start : start + _BLOCK]
        # The product of +-1 vectors counts agreements minus differences.
        different = (_HASH_SIDE**2 - _plus_minus([first[i] for i in block]) @ others.T) / 2
        for row, column in zip(*np.nonzero(different <= _MAX_DIFFERENT_SIGNS), strict=True):
            i, j = block[row], theirs[column]
            if first is second and i >= j:
                continue
            difference = _grey_difference(first[i], second[j])
            if difference <= _MAX_GREY_DIFFERENCE:
                found.append((i, j, difference))
    return found


def _plus_minus(fingerprints: Sequence[Fingerprint]) -> NDArray[np.float32]:
    signs = np.stack([fingerprint.signs for fingerprint in fingerprints])
    return np.where(signs, 1, -1).astype(np.float32)


def _grey_difference(first: Fingerprint, second: Fingerprint) -> float:
    """Return the mean difference of two thumbnails, after their means are made equal."""
    a, b = first.thumbnail.astype(float), second.thumbnail.astype(float)
    return float(np.abs((a - a.mean()) - (b - b.mean())).mean())
