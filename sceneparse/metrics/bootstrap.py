"""How far scores would move with other images: bootstrap intervals and paired comparisons.

Images are drawn with replacement, as often as there are; the scores of each draw come from its
counts added up, as the score itself does (Efron and Tibshirani, An Introduction to the Bootstrap,
1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH, Counts, mean_iou, ratio

Floats = NDArray[np.float64]
LEVEL = 0.95


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
    draws = _draws(len(first), resamples, seed)
    together = np.ones((1, len(first)))
    changes: list[Floats] = []
    values: list[Floats] = []
    for weights, target in ((draws, changes), (together, values)):
        (mean_a, iou_a), (mean_b, iou_b) = (
            _resampled_scores(counts, weights, rule) for counts in (first, second)
        )
        target.extend([mean_b - mean_a, *(iou_b - iou_a).T])
    p_values = [_two_sided(change) for change in changes]
    separated = [p_values[0] < 1 - LEVEL, *_holm(p_values[1:])]
    differences = [
        Difference(float(value[0]), _interval(change), p, apart)
        for value, change, p, apart in zip(values, changes, p_values, separated, strict=True)
    ]
    return differences[0], differences[1:]


def _draws(images: int, resamples: int, seed: int) -> Floats:
    """How often each image is in each draw: (resamples, images)."""
    shares = np.full(images, 1 / images)
    return np.random.default_rng(seed).multinomial(images, shares, size=resamples).astype(float)


def _resampled_scores(by_image: Counts, weights: Floats, rule: str) -> tuple[Floats, Floats]:
    """Mean IoU (R,) and IoU (R, K) of each draw; sums of pixels are exact below 2^53."""
    images, _, classes = by_image.shape
    sums = weights @ by_image.reshape(images, -1).astype(float)
    counts = sums.reshape(len(weights), 3, classes)
    right, truth, predicted = (counts[:, row] for row in (RIGHT, TRUTH, PREDICTED))
    iou = ratio(right, truth + predicted - right)
    return mean_iou(right, truth, predicted, rule), iou


def _interval(values: Floats) -> Interval:
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _two_sided(changes: Floats) -> float:
    """Twice the share of draws on the rarer side of 0, never 0 itself."""
    known = changes[~np.isnan(changes)]
    if not len(known):
        return float("nan")
    rarer = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(2 * (rarer + 1) / (len(known) + 1), 1.0))


def _holm(p_values: list[float]) -> list[bool]:
    """Which of several hypotheses fall, so that by chance one falls wrongly in 1 - LEVEL of cases.

    Holm, A simple sequentially rejective multiple test procedure, 1979. NaN counts as no test.
    """
    falls = [False] * len(p_values)
    order = sorted((p, k) for k, p in enumerate(p_values) if not np.isnan(p))
    for rank, (p, k) in enumerate(order):
        if p >= (1 - LEVEL) / (len(order) - rank):
            break
        falls[k] = True
    return falls
