"""Tests of the means of several runs: Welch's test, and Holm's correction for many tests.

Welch, The generalization of Student's problem when several different population variances are
involved, 1947; Holm, A simple sequentially rejective multiple test procedure, 1979.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class MeanDifference:
    """How much larger the mean of `second` is than that of `first`, with its interval.

    `p_value` is two-sided, `adjusted` the same after Holm's correction; the interval is not
    corrected. All are NaN if there are fewer than two runs of each, no spread, or a value that is
    not finite: then nothing can be tested.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p_value: float
    adjusted: float

    @property
    def separated(self) -> bool:
        """Whether the difference is unlikely to be chance."""
        return self.adjusted < 1 - LEVEL

    @property
    def tested(self) -> bool:
        """Whether the runs allow a test."""
        return not math.isnan(self.p_value)


def compare_means(groups: Mapping[str, Sequence[float]]) -> list[MeanDifference]:
    """Compare every pair of groups, in their order, by Welch's test with Holm's correction."""
    pairs = [*combinations(groups, 2)]
    found = [_welch(groups[first], groups[second]) for first, second in pairs]
    adjusted = holm([p_value for *_, p_value in found])
    return [
        MeanDifference(*pair, *numbers, corrected)
        for pair, numbers, corrected in zip(pairs, found, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values so that chance makes any of them fall below 0.05 in at most 1 of 20 cases.

    A NaN is no test and stays NaN.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, k) in enumerate(order):
        largest = max(largest, min(p * (len(order) - rank), 1.0))
        adjusted[k] = largest
    return adjusted


def _welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the difference of means, its interval, and the p-value."""
    value = float(np.mean(second) - np.mean(first))
    # Not by the variance: for equal numbers, rounding may leave it above 0.
    no_spread = len({*first}) == len({*second}) == 1
    if min(len(first), len(second)) < 2 or no_spread or not math.isfinite(sum([*first, *second])):
        return value, math.nan, math.nan, math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one of the two may have no spread
        test = stats.ttest_ind(second, first, equal_var=False)
    interval = test.confidence_interval(LEVEL)
    return value, float(interval.low), float(interval.high), float(test.pvalue)
