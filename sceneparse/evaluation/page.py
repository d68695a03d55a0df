"""Write the page about an evaluation: scores, plots, and the worst and best images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from sceneparse.data.labels import LabelTable
from sceneparse.evaluation.folders import place_of
from sceneparse.evaluation.result import Evaluation, as_dict
from sceneparse.metrics.calibration import Calibration
from sceneparse.metrics.confusion import Counts, ratio
from sceneparse.metrics.risk import BINS, THRESHOLDS, Risk
from sceneparse.models.costs import count_parameters
from sceneparse.models.origin import recorded_origin
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.report.pages import example_layers, figure_of_layers, figure_uri, write_page
from sceneparse.report.pictures import Example
from sceneparse.report.plots import named_lines, save_plot, short_names
from sceneparse.report.tables import four_digits
from sceneparse.training.examples import KeptExamples
from sceneparse.training.pictures import curves_of

# Images that are shown.
_WORST, _BEST = 6, 3
_MAX_CONFUSIONS = 15
# Thresholds of confidence that the page tells about.
_TOLD_THRESHOLDS = (0.5, 0.8, 0.95)
# With more classes, the cells of a confusion matrix are too small for numbers.
_MAX_NUMBERED_CLASSES = 25


@dataclass(frozen=True)
class AboutModel:
    """What a page tells about a model: facts by heading, settings and curves of its training."""

    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Figure | None = None


def describe_model(model: SegmentationNetwork, source: Path) -> AboutModel:
    """Describe a network that was loaded from `source`, and its run if it is of one."""
    curves = curves_of(place_of(source)[0])
    return AboutModel(model_facts(model, source), model.meta.get("config", {}), curves)


def model_facts(model: SegmentationNetwork, source: Path) -> dict[str, str]:
    """Return parts, parameters, pretrained weights and their licence of a network, by heading."""
    built = model.meta.get("model", {})
    facts = {
        "loaded from": str(source),
        **{key: str(built[key]) for key in ("head", "backbone", "attention") if built.get(key)},
        "classes": str(len(model.classes)),
    }
    if parameters := count_parameters(model):  # exported files tell no number
        facts["parameters"] = f"{parameters:,}"
    if built:
        origin = recorded_origin(model.meta, source)
        facts["pretrained weights"] = origin["weights"] if origin else "none"
        facts |= {"their licence": origin["licence"]} if origin else {}
    if epoch := model.meta.get("epoch"):
        facts["trained"] = f"until epoch {epoch}"
    return facts


def draw_classes(evaluation: Evaluation) -> Figure:
    """Draw the IoU per class in its colour, with intervals if there are any."""
    names, intervals = evaluation.table.names, evaluation.class_intervals
    label = "IoU" if intervals is None else "IoU, with 95% intervals over images"
    figure, axes = named_lines(names, (7, 0.8 + 0.26 * len(names)), label)
    painted = [tuple(channel / 255 for channel in color) for color in evaluation.table.colors]
    ious = np.nan_to_num(evaluation.scores.iou)
    axes.barh(range(len(names)), ious, color=painted, edgecolor="#444", linewidth=0.5)
    for place, interval in enumerate(intervals or []):
        axes.plot([interval.low, interval.high], [place, place], color="black", linewidth=1.5)
    axes.set_xlim(0, 1)
    axes.margins(y=0.01)
    return figure


def draw_confusion(counts: Counts, names: Sequence[str]) -> Figure:
    """Draw the predictions for the pixels of each true class (row), as shares of the row."""
    shares = np.nan_to_num(ratio(counts, counts.sum(axis=1, keepdims=True) + 0 * counts))
    size = 2.5 + 0.42 * min(len(names), 30)
    figure = Figure(figsize=(size, size))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    with_numbers = len(names) <= _MAX_NUMBERED_CLASSES
    small, places = 8 if with_numbers else 4, range(len(names))
    names = short_names(names)
    axes.set_xticks(places, names, rotation=90, fontsize=small, parse_math=False)
    axes.set_yticks(places, names, fontsize=small, parse_math=False)
    axes.set(xlabel="prediction", ylabel="truth")
    for row, column in np.argwhere(shares >= 0.005) if with_numbers else ():
        value = shares[row, column]
        ink, label = "white" if value > 0.5 else "black", f"{100 * value:.0f}"
        axes.text(column, row, label, ha="center", va="center", fontsize=7, color=ink)
    return figure


def draw_calibration(calibration: Calibration) -> Figure:
    """Draw accuracy against confidence, and below it the share of pixels per confidence."""
    figure = Figure(figsize=(5, 5.5))
    curve, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    curve.plot([0, 1], [0, 1], color="#999", linestyle="--", linewidth=1, label="calibrated")
    known = ~np.isnan(calibration.confidence)
    confidence, accuracy = calibration.confidence[known], calibration.accuracy[known]
    curve.plot(confidence, accuracy, marker="o", label=f"model, error {calibration.error:.4f}")
    curve.set(ylabel="share of right pixels", ylim=(0, 1))
    curve.legend()
    curve.grid(alpha=0.3)
    bins = len(calibration.share)
    below.bar((np.arange(bins) + 0.5) / bins, calibration.share, width=0.9 / bins, color="#4a7ab5")
    below.set(xlabel="confidence", ylabel="pixels", xlim=(0, 1))
    return figure


def draw_risk(risk: Risk) -> Figure:
    """Draw the share of wrong pixels against the share of pixels whose confidence suffices."""
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    axes.plot(risk.coverage, risk.error, label=f"model, area {risk.area:.4f}")
    marked = [round(threshold * BINS) for threshold in THRESHOLDS[1:]]
    axes.scatter(risk.coverage[marked], risk.error[marked], s=16)
    for row in (round(threshold * BINS) for threshold in _TOLD_THRESHOLDS):
        place = (float(risk.coverage[row]), float(risk.error[row]))
        if np.isfinite(place).all():
            name, above = f"{risk.threshold[row]:.2f}", (-4, 6)
            axes.annotate(name, place, above, textcoords="offset points", ha="right", fontsize=8)
    axes.set(xlabel="share of pixels above a confidence", ylabel="share of these that is wrong")
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def risk_sentences(risk: Risk) -> list[str]:
    """Tell coverage and error at a few thresholds."""
    sentences = []
    for threshold in _TOLD_THRESHOLDS:
        row = round(threshold * BINS)
        if np.isnan(risk.error[row]):
            sentences.append(f"No pixel has a confidence of at least {threshold:.2f}.")
            continue
        sentences.append(
            f"Of the pixels with a confidence of at least {threshold:.2f}, which are "
            f"{risk.coverage[row]:.1%} of all, {risk.error[row]:.2%} are wrong."
        )
    return sentences


def page_plots(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw the plots of the page by name; "calibration" and "risk" only if they were measured."""
    figures = {"confusion": draw_confusion(evaluation.counts, evaluation.table.names)}
    if evaluation.calibration is not None:
        figures["calibration"] = draw_calibration(evaluation.calibration)
    if evaluation.risk is not None:
        figures["risk"] = draw_risk(evaluation.risk)
    return figures


def write_report(
    folder: Path,
    title: str,
    evaluation: Evaluation,
    shown: KeptExamples,
    about: AboutModel | None = None,
    device: torch.device | None = None,
) -> None:
    """Write report.html and plots/*.png and *.svg.

    `about`, `device`: the model, and what it ran on; None if no model ran.
    """
    about = about or AboutModel()
    plots = page_plots(evaluation)
    for name, figure in {"classes": draw_classes(evaluation), **plots}.items():
        save_plot(figure, folder / "plots" / name)
    scores = evaluation.image_scores
    galleries = shown.scenes(_WORST, _BEST, len(evaluation.image_names))
    values = {
        "title": title,
        "model": about.facts,
        "settings": about.settings,
        "curves": about.curves and figure_uri(about.curves),
        "evaluation": evaluation,
        "result": as_dict(evaluation),
        "confusions": most_confused(evaluation.counts, evaluation.table.names),
        "plots": {name: figure_uri(figure) for name, figure in plots.items()},
        "risk": [] if evaluation.risk is None else risk_sentences(evaluation.risk),
        "galleries": {
            heading: [
                layered_figure(shown.example(k), scores[k], evaluation.table) for k in numbers
            ]
            for heading, numbers in galleries.items()
        },
    }
    write_page("evaluation.html", folder / "report.html", values, device)


def most_confused(counts: Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes with the most wrong pixels."""
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


def layered_figure(example: Example, score: float, table: LabelTable) -> dict[str, Any]:
    """Encode an image and the layers that the page shows above it."""
    caption = f"{example.name}: mean IoU {four_digits(score)}"
    return figure_of_layers(caption, example.image, {"": example_layers(example, table)})
