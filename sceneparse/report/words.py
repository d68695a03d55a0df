"""Differences between models in plain words."""

from __future__ import annotations

import math

from sceneparse.metrics.significance import MeanDifference


def points(value: float) -> str:
    """Write a share as signed points: 0.0123 as +1.23."""
    return f"{100 * value:+.2f}"


def verdict_word(difference: MeanDifference) -> str:
    """Say whether a difference is separated."""
    if not difference.tested:
        return "not tested"
    return "separated" if difference.separated else "not separated"


def p_word(p_value: float) -> str:
    """Write a p-value with two digits."""
    return "-" if math.isnan(p_value) else f"{p_value:.2g}"
