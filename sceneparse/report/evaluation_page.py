"""What the page about an evaluation shows: scores, plots, and the worst and best images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sceneparse.data.labels import Color
from sceneparse.metrics.confusion import Counts
from sceneparse.report import plots
from sceneparse.report.evaluation import Evaluation, as_dict
from sceneparse.report.pages import figure_uri, layer_uri, picture_uri, write_page
from sceneparse.report.pictures import Example

_WORST, _BEST = 6, 3
_LONGEST = 480
_MOST_CONFUSIONS = 15
_RED = (220, 30, 30)


# Examples beside their mean IoU, by heading.
Galleries = Mapping[str, Sequence[tuple[Example, float]]]


def worst_and_best(evaluation: Evaluation) -> dict[str, list[tuple[int, float]]]:
    """Choose the images to look at: their numbers and mean IoU, by heading."""
    scores = evaluation.image_scores
    order = [int(i) for i in np.argsort(scores, kind="stable") if not np.isnan(scores[i])]
    worst, others = order[:_WORST], order[_WORST:]
    chosen = {"Worst images": worst, "Best images": others[::-1][:_BEST]}
    return {heading: [(i, float(scores[i])) for i in some] for heading, some in chosen.items()}


def write_report(folder: Path, title: str, evaluation: Evaluation, galleries: Galleries) -> None:
    """Write report.html and plots/*.png and *.svg."""
    table = evaluation.table
    figures = {
        "classes": plots.class_bars(
            evaluation.scores.iou, table.names, table.colors, evaluation.class_intervals
        ),
        "confusion": plots.confusion(evaluation.counts, table.names),
    }
    if evaluation.calibration is not None:
        figures["calibration"] = plots.calibration_curve(evaluation.calibration)
    for name, figure in figures.items():
        plots.save_plot(figure, folder / "plots" / name)
    values = _page_values(title, evaluation, figures, galleries)
    write_page("evaluation.html", folder / "report.html", values)


def _page_values(
    title: str, evaluation: Evaluation, figures: Mapping[str, Figure], galleries: Galleries
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
            heading: [_figure(example, score, table.colors) for example, score in examples]
            for heading, examples in galleries.items()
        },
        "legend": list(zip(table.names, table.colors, strict=True)),
    }


def _most_confused(counts: Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Find the pairs of classes that cost most pixels."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None)[::-1][:_MOST_CONFUSIONS]
    rows = []
    for truth, prediction in zip(*np.unravel_index(order, wrong.shape), strict=True):
        pixels = int(wrong[truth, prediction])
        if pixels:
            of_class = 100 * pixels / int(counts[truth].sum())
            rows.append(
                {
                    "truth": names[truth],
                    "prediction": names[prediction],
                    "pixels": pixels,
                    "of_class": of_class,
                }
            )
    return rows


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
