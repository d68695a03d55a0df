"""Plots of a training run: its curves, and the labels of its images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sceneparse.data.labels import LabelTable
from sceneparse.metrics.confusion import Counts
from sceneparse.report.plots import add_legend

# The score that chooses the best checkpoint, and its name; the first one that a record has.
_SCORES = {
    "mean_iou": "validation mean IoU",
    "holdout_accuracy": "held-out accuracy",
    "test_accuracy": "test accuracy",
}


def draw_curves(records: Sequence[Mapping[str, Any]], steps_per_epoch: int) -> Figure:
    """Draw loss, score and learning rate over the epochs, from the records of metrics.jsonl."""
    training = [record for record in records if record["kind"] == "train"]
    tested = [record for record in records if record["kind"] == "val"]
    figure = Figure(figsize=(8, 9), layout="constrained")
    loss, score, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.5])
    epochs = [record["step"] / steps_per_epoch for record in training]
    losses = [record["loss"] for record in training]
    loss.plot(epochs, losses, color="tab:blue", alpha=0.35, linewidth=1, label="training, each log")
    means = _means_by_epoch(training)
    loss.plot(*means, color="tab:blue", marker=".", label="training, mean of the epoch")
    tested_epochs = [record["epoch"] for record in tested]
    names = dict.fromkeys(key for record in tested for key in record if key.endswith("loss"))
    for number, name in enumerate(names, 1):
        values = np.array([record.get(name) for record in tested], dtype=float)
        label = "validation, cross entropy" if name == "loss" else name.replace("_", " ")
        loss.plot(tested_epochs, values, color=f"C{number}", marker="o", label=label)
    loss.set_ylabel("loss")
    loss.set_ylim(bottom=0)
    loss.legend()
    if tested:
        _draw_score(score, tested)
    rates = {"backbone": "lr", "heads": "head_lr"}
    for (label, name), style in zip(rates.items(), ("-", "--"), strict=True):
        rate.plot(epochs, [record[name] for record in training], style, label=label)
    rate.set(ylabel="learning rate", xlabel="epoch")
    rate.set_ylim(bottom=0)
    rate.legend()
    for axes in (loss, score, rate):
        axes.grid(alpha=0.3)
    return figure


def _means_by_epoch(training: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    losses: dict[int, list[float]] = {}
    for record in training:
        losses.setdefault(record["epoch"], []).append(record["loss"])
    return [*losses], [float(np.mean(found)) for found in losses.values()]


def _draw_score(axes: Axes, tested: Sequence[Mapping[str, Any]]) -> None:
    """Draw the score of each validation, and mark the best one."""
    name = next(key for key in _SCORES if key in tested[0])
    epochs = [record["epoch"] for record in tested]
    values = np.array([record[name] for record in tested], dtype=float)  # None becomes NaN
    axes.plot(epochs, values, color="tab:green", marker="o")
    axes.set_ylabel(_SCORES[name])
    axes.ticklabel_format(axis="y", useOffset=False)
    if np.isnan(values).all():
        return
    best = int(np.nanargmax(values))
    label = f"best: {values[best]:.4f}, epoch {epochs[best]}"
    line = axes.plot(epochs[best], values[best], "*", color="tab:red", markersize=16)[0]
    add_legend(axes, {label: line}, loc="lower right")


def draw_label_shares(counts: Counts, table: LabelTable, title: str) -> Figure:
    """Draw the share of pixels and the number of images of each class.

    `counts` (N, K): pixels per image and class.
    """
    names, places = table.names, range(table.num_classes)
    shares = 100 * counts.sum(0) / max(counts.sum(), 1)
    images = (counts > 0).sum(0)
    figure = Figure(figsize=(10, 1.5 + 0.28 * len(names)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    painted = [tuple(channel / 255 for channel in color) for color in table.colors]
    pixels, shown = figure.subplots(1, 2, sharey=True)
    for axes, values, label, form in (
        (pixels, shares, "share of the labelled pixels, in percent", "{:.3g}%"),
        (shown, images, f"images that show the class, of {len(counts)}", "{:d}"),
    ):
        bars = axes.barh(places, values, color=painted, edgecolor="#444", linewidth=0.5)
        axes.bar_label(bars, [form.format(value) for value in values.tolist()], padding=3)
        axes.set_xlabel(label)
        axes.set_xlim(0, max(values.max() * 1.15, 1e-9))
        axes.grid(axis="x", alpha=0.3)
    pixels.set_yticks(places, names, parse_math=False)
    pixels.invert_yaxis()
    pixels.margins(y=0.01)
    return figure
