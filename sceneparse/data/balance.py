"""Count the pixels of each class in a training set, and compute class weights from them."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.cache import cache_folder, fingerprint, resize_settings, save_array
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import count_labels
from sceneparse.data.reading import read_all
from sceneparse.errors import InputError, refusing

logger = logging.getLogger(__name__)

# Pixels by image and class (N, K); ignored ones are not counted.
PixelCounts = NDArray[np.int64]
# Above this ratio of the largest to the smallest class weight, mean IoU has suffered.
_WIDE_RANGE = 20


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
    """Weight a class by 1 / ln(1.02 + share of all pixels); arXiv 1606.02147, section 4."""
    pixels = counts.sum(0)
    return np.asarray(1 / np.log(1.02 + pixels / pixels.sum()))


def damped(counts: PixelCounts) -> NDArray[np.float64]:
    """Weight a class by the root of its median_frequency weight; pixels have mean weight 1.

    Of the rules tried, only this one raised mean IoU on every dataset of rare classes (table in
    docs/results.md). A class that never occurs has weight 0.
    """
    weights, pixels = median_frequency(counts) ** 0.5, counts.sum(0)
    return np.asarray(weights * pixels.sum() / (weights @ pixels))


def class_weights(rule: str, counts: PixelCounts) -> list[float]:
    """Return a weight per class (K,), larger for rare classes, by a rule of CLASS_WEIGHTS."""
    return [float(weight) for weight in CLASS_WEIGHTS[rule](counts)]


def log_weights(names: Sequence[str], weights: Sequence[float], rule: str) -> None:
    """Log the `rule`, the weight of each class, the range, and what a wide range does."""
    shown = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True))
    used = [weight for weight in weights if weight > 0]
    ratio = max(used) / min(used)
    logger.info(f"class weights ({rule}), the largest {ratio:.3g} times the smallest: {shown}")
    if unused := [name for name, weight in zip(names, weights, strict=True) if weight == 0]:
        logger.info(f"weight 0, so without influence on the loss: {', '.join(unused)}")
    if ratio > _WIDE_RANGE:
        logger.warning(
            f"the largest class weight is {ratio:.0f} times the smallest: rare classes may be "
            "predicted far beyond their borders; loss.class_weights=auto is milder"
        )


def count_masks(dataset: SegmentationDataset, numbers: Sequence[int]) -> PixelCounts:
    """Read some masks in parallel; return their pixels of every class (N, K)."""
    num_classes = dataset.table.num_classes
    return np.stack(read_all(lambda i: count_labels(dataset.mask(i), num_classes), numbers))


def count_pixels(dataset: SegmentationDataset) -> PixelCounts:
    """Return the pixels of every class in every mask of a dataset.

    The counts are kept in the user's cache folder, named by the masks' paths, sizes and dates, so
    that only the first run reads all masks. Raises InputError for a mask that cannot be used.
    """
    num_classes = dataset.table.num_classes
    files = (pair.mask for pair in dataset.pairs)
    masks = fingerprint(files, dataset.table, *resize_settings(dataset))
    path = cache_folder() / f"class-pixels-{masks}.npy"
    if path.is_file():
        try:
            return _load_counts(path, (len(dataset), num_classes))
        except InputError as error:
            logger.warning(str(error))
    logger.info(f"counting the pixels of every class in {len(dataset)} masks (kept for later runs)")
    counts = count_masks(dataset, range(len(dataset)))
    try:
        save_array(path, counts)
    except OSError as error:
        logger.warning(f"the counts cannot be kept for later runs: {error}")
    return counts


def _load_counts(path: Path, shape: tuple[int, int]) -> PixelCounts:
    with refusing(path, "damaged"):
        counts: PixelCounts = np.load(path, allow_pickle=False)
        if counts.shape != shape or counts.dtype != np.int64:
            raise ValueError(f"counts of shape {counts.shape}")
    return counts


CLASS_WEIGHTS: dict[str, Callable[[PixelCounts], NDArray[np.float64]]] = {
    "damped": damped,
    "median_frequency": median_frequency,
    "enet": enet,
}
