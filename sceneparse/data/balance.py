"""How often each class occurs in a training set, and the class weights that follow from it."""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import count_labels
from sceneparse.errors import InputError, refusing

logger = logging.getLogger(__name__)

# Pixels by image and class (N, K); ignored ones are not counted.
PixelCounts = NDArray[np.int64]


def class_weights(rule: str, counts: PixelCounts) -> list[float]:
    """Weights that raise rare classes.

    "median_frequency" (Eigen and Fergus, ICCV 2015, section 6.3.2): median of the frequencies over
    a class's frequency, in the images it occurs in; 0 for a class that never occurs. "enet"
    (Paszke et al., arXiv 1606.02147, section 4): 1 / ln(1.02 + share of all pixels).
    """
    pixels = counts.sum(0)
    if rule == "enet":
        weights = 1 / np.log(1.02 + pixels / pixels.sum())
        return [float(weight) for weight in weights]
    occurs = pixels > 0
    image_pixels = (counts.sum(1, keepdims=True) * (counts > 0)).sum(0)
    frequencies = pixels[occurs] / image_pixels[occurs]
    result = np.zeros(len(pixels))
    result[occurs] = np.median(frequencies) / frequencies
    return [float(weight) for weight in result]


def count_pixels(dataset: SegmentationDataset) -> PixelCounts:
    """Count the pixels of every class in every mask of a data set.

    The counts are kept in the user's cache folder, by the masks' paths, sizes and dates, so that
    only the first run reads all masks. Raises InputError for a mask that cannot be used.
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
    _keep(cached, counts)
    return counts


def _kept(path: Path, shape: tuple[int, int]) -> PixelCounts | None:
    """Read the counts of an earlier run; None where there are none, or they are damaged."""
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


def cache_folder() -> Path:
    """Where the user's caches lie: XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sceneparse"


def _fingerprint(dataset: SegmentationDataset) -> str:
    digest = hashlib.sha256(repr(dataset.table).encode())
    for pair in dataset.pairs:
        state = pair.mask.stat()
        digest.update(f"{pair.mask.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _keep(path: Path, counts: PixelCounts) -> None:
    """Write aside and rename, so that a reader sees all or nothing."""
    aside = path.with_suffix(f".{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(aside, counts)
        aside.replace(path)
    except OSError as error:
        logger.warning(f"the counts cannot be kept for later runs: {error}")
