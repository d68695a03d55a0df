"""Uncertainty of scores over images: bootstrap intervals and paired permutation tests.

Bootstrap (Efron and Tibshirani, 1993): draw as many images as there are, with replacement, and
compute the score from their summed counts. Permutation test (Good, Permutation Tests, 2000): swap
two models in half the images, at random; if neither is better, the difference changes by chance
only. It holds for few images too, where the bootstrap does not.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH, Counts, class_iou, mean_iou
from sceneparse.metrics.significance import LEVEL, holm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A percentile interval of level LEVEL."""

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


def bootstrap_mean_iou(
    by_image: Counts, resamples: int, rule: str = "cityscapes", seed: int = 0
) -> tuple[Interval, list[Interval]]:
    """Return the intervals of mean IoU and of IoU per class from counts per image (N, 3, K)."""
    scores = _scores(_sums(by_image, _draws(len(by_image), resamples, seed)), rule)
    overall, *classes = map(_interval, scores.T)
    return overall, classes


def compare_paired(
    first: Counts, second: Counts, resamples: int, rule: str = "cityscapes", seed: int = 0
) -> tuple[Difference, list[Difference]]:
    """Compare mean IoU and IoU per class of two models on the same images: (N, 3, K) each.

    Both are scored on the same draws, so that hard and easy images do not blur the difference.
    """

    def gains(weights: Floats) -> Floats:
        return _scores(_sums(second, weights), rule) - _scores(_sums(first, weights), rule)

    values = gains(np.ones((1, len(first))))[0]
    resampled = gains(_draws(len(first), resamples, seed))
    # B - A after the two were swapped in half the images
    swaps = np.random.default_rng(seed + 1).integers(0, 2, (resamples, len(first))).astype(float)
    moved = _sums(second - first, swaps)
    by_chance = _scores(second.sum(axis=0) - moved, rule) - _scores(first.sum(axis=0) + moved, rule)
    p_values = [_p_value(*pair) for pair in zip(values, by_chance.T, strict=True)]
    separated = [p < 1 - LEVEL for p in (p_values[0], *holm(p_values[1:]))]
    overall, *classes = (
        Difference(float(value), _interval(gain), p, apart)
        for value, gain, p, apart in zip(values, resampled.T, p_values, separated, strict=True)
    )
    return overall, classes


def _draws(images: int, resamples: int, seed: int) -> Floats:
    """Return how often each image is in each draw: (resamples, images)."""
    shares = np.full(images, 1 / images)
    return np.random.default_rng(seed).multinomial(images, shares, size=resamples).astype(float)


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


def _interval(values: Floats) -> Interval:
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _p_value(value: float, by_chance: Floats) -> float:
    """Return how often chance alone makes a difference as large, two-sided, never 0."""
    if np.isnan(value):
        return math.nan
    # Sums in another order may differ in the last bit of their ratio.
    as_large = np.abs(by_chance) >= abs(value) - 1e-12
    return float((as_large.sum() + 1) / (len(by_chance) + 1))
