"""The curves of a fine-tuning over time."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

_INK, _BLUE, _ORANGE, _GREEN = "#808080", "#3b82c4", "#e07b1a", "#2e9e5b"


def draw_auto_curves(log: Sequence[Mapping[str, Any]], first: float | None) -> Figure:
    """Draw loss, mean IoU and learning rate over minutes, from the records of a whole training.

    `first`: mean IoU of the first rung. Dotted lines mark where the schedule was changed.
    """
    training = [record for record in log if record["kind"] == "train"]
    tested = [record for record in log if record["kind"] == "val"]
    places = partial(_minutes, log)
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    loss, score, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.5])
    steps, tested_steps = ([record["step"] for record in part] for part in (training, tested))
    losses = np.array([record["loss"] for record in training], dtype=float)
    _draw_losses(loss, places(steps), losses)
    values = np.array([record.get("loss") for record in tested], dtype=float)
    loss.plot(places(tested_steps), values, "o-", color=_ORANGE, label="validation, cross entropy")
    scores = np.array([record["mean_iou"] for record in tested], dtype=float)
    score.plot(places(tested_steps), scores, "o-", color=_GREEN, label="fine-tuning, validation")
    if first is not None:
        score.axhline(first, color=_ORANGE, linestyle="--", label="frozen backbone")
    for name, key, style in (("backbone", "lr", "-"), ("head", "head_lr", "--")):
        values = np.array([record.get(key) for record in training], dtype=float)
        rate.plot(places(steps), values, style, color=_BLUE, label=name)
    for number, place in enumerate(places([r["step"] for r in log if r["kind"] == "replan"])):
        for axes in (loss, score, rate):
            label = "schedule changed" if number == 0 and axes is rate else "_"
            axes.axvline(place, color=_INK, linestyle=":", label=label)
    loss.set_ylabel("loss")
    score.set_ylabel("mean IoU")
    rate.set(ylabel="learning rate", xlabel="minutes of training")
    loss.set_ylim(bottom=0)
    rate.set_ylim(bottom=0)
    for axes in (loss, score, rate):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _draw_losses(axes: Axes, places: NDArray[Any], losses: NDArray[np.float64]) -> None:
    """Draw the training loss, and its mean over a twentieth of the records."""
    axes.plot(places, losses, color=_BLUE, alpha=0.35, linewidth=1, label="training, each log")
    groups = np.array_split(np.arange(len(losses)), min(20, len(losses)))
    ends = [np.mean(places[k]) for k in groups]
    means = [np.mean(losses[k]) for k in groups]
    axes.plot(ends, means, ".-", color=_BLUE, label="training, mean")


def _minutes(log: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> NDArray[np.float64]:
    """Return the minutes at which steps were taken, between the records that have a time."""
    known = sorted({(r["step"], r["seconds"] / 60) for r in log if "seconds" in r})
    known_steps, minutes = np.array([(0, 0.0), *known]).T
    places: NDArray[np.float64] = np.interp(steps, known_steps, minutes)
    return places
