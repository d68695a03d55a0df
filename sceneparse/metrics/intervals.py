"""Uncertainty of scores over images: jackknife intervals and paired permutation tests.

Jackknife (Tukey, 1958): leave out one image at a time; the spread of the scores gives a standard
error, Student's t the interval, for IoU on the logit scale, which stays within 0 and 1. With few
images it holds the truth more often than bootstrap percentiles (Efron and Tibshirani, 1993):
benchmarks/intervals.py. Permutation test (Good, Permutation Tests, 2000): swap two models in half
the images, at random; if neither is better, the difference changes by chance only.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH, Counts, class_iou, mean_iou
from sceneparse.metrics.significance import LEVEL, holm

Floats = NDArray[np.float64]
# With fewer images, 95% intervals may hold the truth in fewer than 95% of cases.
_FEW_IMAGES = 50


@dataclass(frozen=True)
class Interval:
    """An interval of level LEVEL; NaN if the images do not suffice for one."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much better B is than A on the same images.

    `p_value` is two-sided; `separated`: whether it is below 1 - LEVEL, for several classes after
    Holm's correction.
    """

    value: float
    interval: Interval
    p_value: float
    separated: bool


def few_images_note(images: int) -> str:
    """Return a warning about intervals over few images; "" if there are enough."""
    if images >= _FEW_IMAGES:
        return ""
    if images == 1:
        return "one image gives no 95% interval"
    shares = "83 to 94%" if images <= 10 else "85 to 96%" if images < 30 else "92 to 96%"
    return (
        f"only {images} images: in simulations, 95% intervals over so "
        f"few images hold the true mean IoU in {shares} of cases"
    )


def mean_iou_intervals(
    by_image: Counts, rule: str = "cityscapes"
) -> tuple[Interval, list[Interval]]:
    """Return the intervals of mean IoU and of IoU per class from counts per image (N, 3, K)."""
    every, left = _with_one_image_left_out(by_image)
    overall, *classes = _jackknife(
        _scores(every, rule)[0], _scores(left, rule), by_image[:, TRUTH], bounded=True
    )
    return overall, classes


def bootstrap_mean_iou(
    by_image: Counts, resamples: int, rule: str = "cityscapes", seed: int = 0
) -> tuple[Interval, list[Interval]]:
    """Return percentile bootstrap intervals of mean IoU and of IoU per class."""
    images = len(by_image)
    draws = np.random.default_rng(seed).multinomial(
        images, np.full(images, 1 / images), size=resamples
    )
    scores = _scores(_sums(by_image, draws.astype(float)), rule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class without a score in any draw has no interval
        ends = np.nanquantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    overall, *classes = map(Interval, *ends.tolist())
    return overall, classes


def compare_paired(
    first: Counts, second: Counts, resamples: int, rule: str = "cityscapes", seed: int = 0
) -> tuple[Difference, list[Difference]]:
    """Compare mean IoU and IoU per class of two models on the same images: (N, 3, K) each.

    Both are scored on the same images, so that hard and easy ones do not blur the difference.
    `resamples`: of the permutation test.
    """
    pairs = zip(_with_one_image_left_out(first), _with_one_image_left_out(second), strict=True)
    (values,), left = (_scores(b, rule) - _scores(a, rule) for a, b in pairs)
    intervals = _jackknife(values, left, first[:, TRUTH], bounded=False)
    # B - A after the two were swapped in half the images
    swaps = np.random.default_rng(seed + 1).integers(0, 2, (resamples, len(first))).astype(float)
    moved = _sums(second - first, swaps)
    by_chance = _scores(second.sum(axis=0) - moved, rule) - _scores(first.sum(axis=0) + moved, rule)
    p_values = [_p_value(*pair) for pair in zip(values, by_chance.T, strict=True)]
    separated = [p < 1 - LEVEL for p in (p_values[0], *holm(p_values[1:]))]
    overall, *classes = (
        Difference(float(value), interval, p, apart)
        for value, interval, p, apart in zip(values, intervals, p_values, separated, strict=True)
    )
    return overall, classes


def _with_one_image_left_out(by_image: Counts) -> tuple[Floats, Floats]:
    """Return the counts of all images (1, 3, K), and of all but one: (N, 3, K)."""
    every = by_image.sum(axis=0, keepdims=True)
    return every.astype(float), (every - by_image).astype(float)


def _jackknife(
    values: Floats, left: Floats, truth: NDArray[np.int64], *, bounded: bool
) -> list[Interval]:
    """Return the intervals of scores (1 + K,) from those with one image left out (N, 1 + K).

    `truth` (N, K): true pixels. An interval of a class has as many degrees of freedom as images
    show it, less one, because the others tell little of it. `bounded`: scores are within 0 and 1.
    """
    images = len(left)
    errors = np.sqrt((images - 1) / images * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    shown = np.array([images, *(truth > 0).sum(axis=0)])
    reach = stats.t.ppf((1 + LEVEL) / 2, np.where(shown > 1, shown - 1, np.nan)) * errors
    low, high = values - reach, values + reach
    if bounded:
        # Scores of exactly 0 or 1 are so for each image, and have no spread.
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(reach == 0, 0, reach / (values * (1 - values)))
            low, high = expit(logit(values) - reach), expit(logit(values) + reach)
    return list(map(Interval, low.tolist(), high.tolist()))


def _sums(by_image: Counts, weights: Floats) -> Floats:
    """Sum counts per image, for each row of weights: (N, 3, K), (R, N) -> (R, 3, K).

    Exact below 2^53 pixels.
    """
    images, rows, classes = by_image.shape
    sums: Floats = weights @ by_image.reshape(images, -1).astype(float)
    return sums.reshape(len(weights), rows, classes)


def _scores(sums: Floats, rule: str) -> Floats:
    """Return mean IoU and IoU per class: (R, 3, K) -> (R, 1 + K)."""
    right, truth, predicted = (sums[:, row] for row in (RIGHT, TRUTH, PREDICTED))
    return np.column_stack(
        [mean_iou(right, truth, predicted, rule), class_iou(right, truth, predicted)]
    )


def _p_value(value: float, by_chance: Floats) -> float:
    """Return how often chance alone makes a difference as large, two-sided, never 0."""
    if np.isnan(value):
        return math.nan
    # Sums in another order may differ in the last bit of their ratio.
    as_large = np.abs(by_chance) >= abs(value) - 1e-12
    return float((as_large.sum() + 1) / (len(by_chance) + 1))
