"""Plots of scores: bars per class, confusion, calibration, differences; PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sceneparse.data.labels import Color
from sceneparse.metrics.bootstrap import Interval
from sceneparse.metrics.calibration import Calibration
from sceneparse.metrics.confusion import Counts, ratio
from sceneparse.report.comparison import Comparison

_SUFFIXES = (".png", ".svg")
# More classes than this leave no room for numbers in the cells of a confusion matrix.
_MOST_CELLS_WITH_NUMBERS = 25


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as PATH.png and PATH.svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in _SUFFIXES:
        figure.savefig(path.with_suffix(suffix), dpi=120, bbox_inches="tight")


def add_legend(
    place: Axes | Figure,
    lines: Mapping[str, Line2D],
    **arrangement: Any,  # noqa: ANN401
) -> None:
    """Name lines by texts that may be anything, `_x` and `a$b$` too."""
    legend = place.legend([*lines.values()], [*lines], **arrangement)
    for text in legend.get_texts():
        text.set_parse_math(False)


def class_bars(
    iou: NDArray[np.float64],
    names: Sequence[str],
    colors: Sequence[Color],
    intervals: Sequence[Interval] | None = None,
) -> Figure:
    """Draw the IoU of each class in its colour, with intervals where given."""
    figure = Figure(figsize=(7, 0.8 + 0.26 * len(names)))
    axes = figure.subplots()
    places = np.arange(len(names))
    painted = [tuple(channel / 255 for channel in color) for color in colors]
    axes.barh(places, np.nan_to_num(iou), color=painted, edgecolor="#444", linewidth=0.5)
    if intervals is not None:
        for place, interval in zip(places, intervals, strict=True):
            axes.plot([interval.low, interval.high], [place, place], color="black", linewidth=1.5)
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.margins(y=0.01)
    axes.set_xlabel("IoU" if intervals is None else "IoU, with 95% intervals over images")
    axes.grid(axis="x", alpha=0.3)
    return figure


def confusion(counts: Counts, names: Sequence[str]) -> Figure:
    """Draw where the pixels of each true class (row) went, as shares of the row."""
    shares = np.nan_to_num(ratio(counts, counts.sum(axis=1, keepdims=True) + 0 * counts))
    size = 2.5 + 0.42 * min(len(names), 30)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 8 if len(names) <= _MOST_CELLS_WITH_NUMBERS else 4
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=small, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if len(names) <= _MOST_CELLS_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            value = shares[row, column]
            ink = "white" if value > 0.5 else "black"
            label = f"{100 * value:.0f}"
            axes.text(column, row, label, ha="center", va="center", fontsize=7, color=ink)
    return figure


def calibration_curve(calibration: Calibration) -> Figure:
    """Draw the share of right pixels against confidence; below, where the pixels are."""
    figure = Figure(figsize=(5, 5.5))
    curve, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    curve.plot([0, 1], [0, 1], color="#999", linestyle="--", linewidth=1, label="calibrated")
    known = ~np.isnan(calibration.confidence)
    curve.plot(
        calibration.confidence[known],
        calibration.accuracy[known],
        marker="o",
        label=f"model, error {calibration.error:.4f}",
    )
    curve.set_ylabel("share of right pixels")
    curve.set_ylim(0, 1)
    curve.legend()
    curve.grid(alpha=0.3)
    bins = len(calibration.share)
    below.bar((np.arange(bins) + 0.5) / bins, calibration.share, width=0.9 / bins, color="#4a7ab5")
    below.set_ylabel("pixels")
    below.set_xlabel("confidence")
    below.set_xlim(0, 1)
    return figure


def differences(comparison: Comparison) -> Figure:
    """Draw the difference of each class and of the mean with its interval, in points."""
    names = ["mean IoU", *comparison.first.classes]
    found = [comparison.overall, *comparison.classes]
    figure = Figure(figsize=(7, 1 + 0.28 * len(names)))
    axes = figure.subplots()
    for place, difference in enumerate(found):
        ink = "#2a7a3a" if difference.separated and difference.value > 0 else "#777"
        ink = "#b53a3a" if difference.separated and difference.value < 0 else ink
        span = [100 * difference.interval.low, 100 * difference.interval.high]
        axes.plot(span, [place, place], color=ink, linewidth=2)
        axes.plot(100 * difference.value, place, marker="o", color=ink)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("B - A in points of IoU, 95% intervals; grey: not separated")
    axes.grid(axis="x", alpha=0.3)
    return figure
