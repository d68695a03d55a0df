"""Find images that follow each other in a video or a stack of slices, by names and thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.checks.duplicates import Fingerprint

# Fewer images show no order.
_MIN_IMAGES = 8
# A pair is alike if it is more so than this share of pairs that lie apart, of which so many are
# compared; names are in the order of a video if at least half of the neighbours are alike. By
# chance 5% are; photos taken on one walk reach 16% (CrackForest), videos 64% and more (CamVid).
_APART, _MAX_PAIRS, _MIN_ALIKE = 0.95, 20_000, 0.5


def video_scenes(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Return runs of indices of at least two images that follow each other and look related.

    `fingerprints` must be in natural order of the images' names. Returns no run unless that order
    is visible in the images: neighbours are then more alike than other pairs.
    """
    count = len(fingerprints)
    if count < _MIN_IMAGES:
        return []
    unit = _normalised(fingerprints)
    neighbours = np.einsum("np,np->n", unit[:-1], unit[1:])
    random = np.random.default_rng(0)
    first, second = random.integers(0, count, (2, _MAX_PAIRS))
    apart = np.abs(first - second) > count / 4
    first, second = first[apart], second[apart]
    alike = neighbours > np.quantile(np.einsum("np,np->n", unit[first], unit[second]), _APART)
    if alike.mean() < _MIN_ALIKE:
        return []
    scenes = np.split(np.arange(count), np.flatnonzero(~alike) + 1)
    return [scene.tolist() for scene in scenes if len(scene) > 1]


def _normalised(fingerprints: Sequence[Fingerprint]) -> NDArray[np.float32]:
    """Return the thumbnails (N, P) of mean 0 and length 1, whose products are correlations."""
    grey = np.stack([one.thumbnail.ravel() for one in fingerprints]).astype(np.float32)
    grey -= grey.mean(axis=1, keepdims=True)
    return np.asarray(grey / np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6))
