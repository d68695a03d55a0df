"""How far scores would move with other images: bootstrap intervals and paired comparisons.

Intervals: images are drawn with replacement, as often as there are; the scores of each draw come
from its counts added up, as the score itself does (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993). Whether two models differ: a paired permutation test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.metrics.confusion import (
    PREDICTED,
    RIGHT,
    TRUTH,
    Counts,
    class_iou,
    mean_iou,
)
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

    `p_value` is two-sided; `separated` says whether it is below 1 - LEVEL, after Holm's correction
    where several classes are compared at once.
    """

    value: float
    interval: Interval
    p_value: float
    separated: bool


def bootstrap_mean_iou(
    by_image: Counts, resamples: int, rule: str = "cityscapes", seed: int = 0
) -> tuple[Interval, list[Interval]]:
    """Find the intervals of mean IoU and of each class's IoU from counts per image (N, 3, K)."""
    means, classes = _resampled_scores(by_image, _draws(len(by_image), resamples, seed), rule)
    return _interval(means), [_interval(column) for column in classes.T]


def compare_paired(
    first: Counts, second: Counts, resamples: int, rule: str = "cityscapes", seed: int = 0
) -> tuple[Difference, list[Difference]]:
    """Compare mean IoU and each class's IoU of two models on the same images: (N, 3, K) each.

    Both are scored on the same draws, so that hard and easy images do not blur the difference.
    """
    together = np.ones((1, len(first)))
    values = _differences(first, second, together, rule)[0]
    changes = _differences(first, second, _draws(len(first), resamples, seed), rule)
    swapped = _differences_swapped(first, second, resamples, rule, seed + 1)
    p_values = [_share_as_large(*pair) for pair in zip(values, swapped.T, strict=True)]
    separated = [p < 1 - LEVEL for p in (p_values[0], *holm(p_values[1:]))]
    differences = [
        Difference(float(value), _interval(change), p, apart)
        for value, change, p, apart in zip(values, changes.T, p_values, separated, strict=True)
    ]
    return differences[0], differences[1:]


def resamples_needed(classes: int) -> int:
    """Return the fewest resamples with which one of so many classes can be separated."""
    return math.ceil(classes / (1 - LEVEL))


def _differences(first: Counts, second: Counts, weights: Floats, rule: str) -> Floats:
    """Return B - A of mean IoU and each class's IoU, for each row of weights: (R, 1 + K)."""
    (mean_a, iou_a), (mean_b, iou_b) = (
        _resampled_scores(counts, weights, rule) for counts in (first, second)
    )
    return np.column_stack([mean_b - mean_a, iou_b - iou_a])


def _differences_swapped(first: Counts, second: Counts, times: int, rule: str, seed: int) -> Floats:
    """Return B - A after A and B were swapped in half the images, at random: (times, 1 + K).

    If neither is better, this changes nothing but chance (paired permutation test; Good,
    Permutation Tests, 2000). It holds for few images too, where the bootstrap does not.
    """
    swaps = np.random.default_rng(seed).integers(0, 2, (times, len(first))).astype(float)
    images, _, classes = first.shape
    gap = (second - first).reshape(images, -1).astype(float)
    moved = (swaps @ gap).reshape(times, 3, classes)
    scores = [
        _scores_of_sums(first.sum(axis=0) + moved, rule),
        _scores_of_sums(second.sum(axis=0) - moved, rule),
    ]
    (mean_a, iou_a), (mean_b, iou_b) = scores
    return np.column_stack([mean_b - mean_a, iou_b - iou_a])


def _draws(images: int, resamples: int, seed: int) -> Floats:
    """How often each image is in each draw: (resamples, images)."""
    shares = np.full(images, 1 / images)
    return np.random.default_rng(seed).multinomial(images, shares, size=resamples).astype(float)


def _resampled_scores(by_image: Counts, weights: Floats, rule: str) -> tuple[Floats, Floats]:
    """Mean IoU (R,) and IoU (R, K) of each draw; sums of pixels are exact below 2^53."""
    images, _, classes = by_image.shape
    sums = weights @ by_image.reshape(images, -1).astype(float)
    return _scores_of_sums(sums.reshape(len(weights), 3, classes), rule)


def _scores_of_sums(sums: NDArray[Any], rule: str) -> tuple[Floats, Floats]:
    right, truth, predicted = (sums[:, row] for row in (RIGHT, TRUTH, PREDICTED))
    return mean_iou(right, truth, predicted, rule), class_iou(right, truth, predicted)


def _interval(values: Floats) -> Interval:
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _share_as_large(value: float, by_chance: Floats) -> float:
    """Two-sided p-value: how often chance alone makes a difference as large, never 0 itself."""
    if np.isnan(value):
        return float("nan")
    # Sums of whole numbers in another order may differ in the last bit of their ratio.
    as_large = np.abs(by_chance) >= abs(value) - 1e-12
    return float((as_large.sum() + 1) / (len(by_chance) + 1))
