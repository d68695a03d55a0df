"""Count the pixels of each class in a training set, and compute class weights from them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.cache import cache_folder, save_array
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import count_labels
from sceneparse.errors import InputError, refusing

logger = logging.getLogger(__name__)

# Pixels by image and class (N, K); ignored ones are not counted.
PixelCounts = NDArray[np.int64]


def median_frequency(counts: PixelCounts) -> NDArray[np.float64]:
    """Weight a class by the median of all frequencies over its own.

    The frequency is counted in the images that show the class; a class that never occurs has
    weight 0. Eigen and Fergus, ICCV 2015, section 6.3.2.
    """
    pixels = counts.sum(0)
    occurs = pixels > 0
    image_pixels = (counts.sum(1, keepdims=True) * (counts > 0)).sum(0)
    frequencies = pixels[occurs] / image_pixels[occurs]
    weights = np.zeros(len(pixels))
    weights[occurs] = np.median(frequencies) / frequencies
    return weights


def enet(counts: PixelCounts) -> NDArray[np.float64]:
    """Weight a class by 1 / ln(1.02 + share of all pixels).

    Paszke et al., arXiv 1606.02147, section 4.
    """
    pixels = counts.sum(0)
    weights: NDArray[np.float64] = 1 / np.log(1.02 + pixels / pixels.sum())
    return weights


def class_weights(rule: str, counts: PixelCounts) -> list[float]:
    """Return a weight per class (K,), larger for rare classes, by a rule of CLASS_WEIGHTS."""
    return [float(weight) for weight in CLASS_WEIGHTS[rule](counts)]


def count_pixels(dataset: SegmentationDataset) -> PixelCounts:
    """Return the pixels of every class in every mask of a dataset.

    The counts are kept in the user's cache folder, named by the masks' paths, sizes and dates, so
    that only the first run reads all masks. Raises InputError for a mask that cannot be used.
    """
    cached = cache_folder() / f"class-pixels-{_fingerprint(dataset)}.npy"
    kept = _kept(cached, (len(dataset), dataset.table.num_classes))
    if kept is not None:
        return kept
    logger.info(f"counting the pixels of every class in {len(dataset)} masks (kept for later runs)")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        each = list(
            pool.map(
                lambda index: count_labels(dataset.mask(index), dataset.table.num_classes),
                range(len(dataset)),
            )
        )
    counts = np.stack(each).astype(np.int64)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        save_array(cached, counts)
    except OSError as error:
        logger.warning(f"the counts cannot be kept for later runs: {error}")
    return counts


def _kept(path: Path, shape: tuple[int, int]) -> PixelCounts | None:
    """Return the counts of an earlier run; None if there are none or they are damaged."""
    if not path.is_file():
        return None
    try:
        with refusing(path, "damaged"):
            counts: PixelCounts = np.load(path, allow_pickle=False)
            if counts.shape != shape or counts.dtype != np.int64:
                raise ValueError(f"counts of shape {counts.shape}")
    except InputError as error:
        logger.warning(str(error))
        return None
    return counts


def _fingerprint(dataset: SegmentationDataset) -> str:
    digest = hashlib.sha256(repr(dataset.table).encode())
    for pair in dataset.pairs:
        state = pair.mask.stat()
        digest.update(f"{pair.mask.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


CLASS_WEIGHTS: dict[str, Callable[[PixelCounts], NDArray[np.float64]]] = {
    "median_frequency": median_frequency,
    "enet": enet,
}
