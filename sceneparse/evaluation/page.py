"""What the page about an evaluation shows: scores, plots, and the worst and best images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sceneparse.data.labels import Color
from sceneparse.evaluation.examples import KeptExamples
from sceneparse.evaluation.result import Evaluation, as_dict
from sceneparse.metrics.calibration import Calibration
from sceneparse.metrics.confusion import Counts, ratio
from sceneparse.metrics.intervals import Interval
from sceneparse.report.pages import figure_uri, layer_uri, picture_uri, write_page
from sceneparse.report.pictures import Example
from sceneparse.report.plots import named_lines, save_plot

_LONGEST = 480
_MAX_CONFUSIONS = 15
# More classes than this leave no room for numbers in the cells of a confusion matrix.
_MAX_CELLS_WITH_NUMBERS = 25
_RED = (220, 30, 30)


def draw_classes(
    iou: NDArray[np.float64],
    names: Sequence[str],
    colors: Sequence[Color],
    intervals: Sequence[Interval] | None = None,
) -> Figure:
    """Draw the IoU of each class in its colour, with intervals where given."""
    label = "IoU" if intervals is None else "IoU, with 95% intervals over images"
    figure, axes = named_lines(names, (7, 0.8 + 0.26 * len(names)), label)
    places = np.arange(len(names))
    painted = [tuple(channel / 255 for channel in color) for color in colors]
    axes.barh(places, np.nan_to_num(iou), color=painted, edgecolor="#444", linewidth=0.5)
    if intervals is not None:
        for place, interval in zip(places, intervals, strict=True):
            axes.plot([interval.low, interval.high], [place, place], color="black", linewidth=1.5)
    axes.set_xlim(0, 1)
    axes.margins(y=0.01)
    return figure


def draw_confusion(counts: Counts, names: Sequence[str]) -> Figure:
    """Draw where the pixels of each true class (row) went, as shares of the row."""
    shares = np.nan_to_num(ratio(counts, counts.sum(axis=1, keepdims=True) + 0 * counts))
    size = 2.5 + 0.42 * min(len(names), 30)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 8 if len(names) <= _MAX_CELLS_WITH_NUMBERS else 4
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=small, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if len(names) <= _MAX_CELLS_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
            value = shares[row, column]
            ink = "white" if value > 0.5 else "black"
            label = f"{100 * value:.0f}"
            axes.text(column, row, label, ha="center", va="center", fontsize=7, color=ink)
    return figure


def draw_calibration(calibration: Calibration) -> Figure:
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


def write_report(folder: Path, title: str, evaluation: Evaluation, shown: KeptExamples) -> None:
    """Write report.html and plots/*.png and *.svg."""
    table = evaluation.table
    figures = {
        "classes": draw_classes(
            evaluation.scores.iou, table.names, table.colors, evaluation.class_intervals
        ),
        "confusion": draw_confusion(evaluation.counts, table.names),
    }
    if evaluation.calibration is not None:
        figures["calibration"] = draw_calibration(evaluation.calibration)
    for name, figure in figures.items():
        save_plot(figure, folder / "plots" / name)
    values = _page_values(title, evaluation, figures, shown)
    write_page("evaluation.html", folder / "report.html", values)


def _page_values(
    title: str, evaluation: Evaluation, figures: Mapping[str, Figure], shown: KeptExamples
) -> dict[str, Any]:
    table = evaluation.table
    result = as_dict(evaluation)
    total = max(int(evaluation.counts.sum()), 1)
    return {
        "title": title,
        "facts": evaluation.how,
        "totals": evaluation.totals,
        "interval": evaluation.interval,
        "classes": [
            {**row, "color": color, "share": 100 * row["pixels"] / total}
            for row, color in zip(result["classes"], table.colors, strict=True)
        ],
        "with_intervals": evaluation.class_intervals is not None,
        "with_boundary": evaluation.boundary is not None,
        "categories": result.get("categories", []),
        "confusions": _most_confused(evaluation.counts, table.names),
        "plots": {name: figure_uri(figure) for name, figure in figures.items()},
        "galleries": {
            heading: [
                _figure(shown.example(number), evaluation.image_scores[number], table.colors)
                for number in numbers
            ]
            for heading, numbers in shown.by_score().items()
        },
        "legend": list(zip(table.names, table.colors, strict=True)),
    }


def _most_confused(counts: Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Find the pairs of classes that cost most pixels."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None)[::-1][:_MAX_CONFUSIONS]
    return [
        {
            "truth": names[truth],
            "prediction": names[prediction],
            "pixels": int(wrong[truth, prediction]),
            "of_class": 100 * int(wrong[truth, prediction]) / int(counts[truth].sum()),
        }
        for truth, prediction in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[truth, prediction]
    ]


def _figure(example: Example, score: float, colors: Sequence[Color]) -> dict[str, str]:
    """Prepare an image and the layers that the page lays over it."""
    wrong = (example.truth != example.prediction) & (example.truth < len(colors))
    errors = np.where(wrong, 0, 255)
    return {
        "caption": f"{example.name}: mean IoU {score:.3f}",
        "image": picture_uri(example.image, longest=_LONGEST),
        "truth": layer_uri(example.truth, colors, _LONGEST),
        "prediction": layer_uri(example.prediction, colors, _LONGEST),
        "errors": layer_uri(errors, [_RED], _LONGEST),
    }
