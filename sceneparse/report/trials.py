"""Pictures of a search: values over time, importance of parameters, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Trials with the same choice lie beside each other, over this share of an axis.
_SPREAD = 0.05


@dataclass(frozen=True)
class Axis:
    """A parameter: where each trial lies on it, in 0..1, and where which text stands."""

    name: str
    places: Sequence[float]
    ticks: Mapping[float, str]


def axis_of_choices(name: str, values: Sequence[str], choices: Sequence[str]) -> Axis:
    """Lay out choices at equal distances, in their order."""
    spots = np.linspace(0.1, 0.9, len(choices)) if len(choices) > 1 else np.array([0.5])
    where = dict(zip(choices, spots.tolist(), strict=True))
    return Axis(name, [where[value] for value in values], {v: k for k, v in where.items()})


def axis_of_numbers(name: str, values: Sequence[float], *, log: bool = False) -> Axis:
    """Lay out numbers between the least and the greatest one, or their logarithms."""
    scaled = np.log(values) if log else np.asarray(values, dtype=float)
    low, high = float(scaled.min()), float(scaled.max())
    if low == high:
        return Axis(name, [0.5] * len(values), {0.5: f"{values[0]:.4g}"})
    marks = np.linspace(low, high, 5)
    ticks = {
        (mark - low) / (high - low): f"{math.exp(mark) if log else mark:.3g}"
        for mark in marks.tolist()
    }
    return Axis(name, ((scaled - low) / (high - low)).tolist(), ticks)


def history(values: Mapping[int, float], metric: str, direction: str) -> Figure:
    """Draw the value of each trial, and the best one so far."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    trials, found = list(values), np.array(list(values.values()))
    best = (np.minimum if direction == "minimize" else np.maximum).accumulate(found)
    axes.plot(trials, found, "o", color="#4a7ab5", label="trial")
    axes.step(trials, best, where="post", color="#b53a3a", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def importance_bars(shares: Mapping[str, float], metric: str) -> Figure:
    """Draw the share of the variance that each parameter explains, the greatest on top."""
    names = sorted(shares, key=lambda name: shares[name])
    figure = Figure(figsize=(7, 1 + 0.35 * len(names)))
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), [shares[name] for name in names], color="#4a7ab5")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"share of the variance of {metric} (fANOVA)")
    axes.grid(axis="x", alpha=0.3)
    return figure


def parallel_coordinates(
    axes: Sequence[Axis], values: Sequence[float], metric: str, direction: str
) -> Figure:
    """Draw a line for each trial through its parameters to its value, good ones dark and on top."""
    figure = Figure(figsize=(2.2 * (len(axes) + 1), 4.5))
    plot = figure.subplots()
    low, high = min(values), max(values)
    good = low if direction == "minimize" else high
    shade = colormaps["viridis" if direction == "minimize" else "viridis_r"]
    scale = Normalize(low, high)
    # The value as the last axis, good ones on top.
    last = axis_of_numbers(metric, values)
    if direction == "minimize":
        last = Axis(metric, [1 - p for p in last.places], {1 - p: t for p, t in last.ticks.items()})
    columns = [_spread(axis, values) for axis in axes] + [list(last.places)]
    for trial in sorted(range(len(values)), key=lambda index: -abs(values[index] - good)):
        places = [column[trial] for column in columns]
        plot.plot(range(len(columns)), places, color=shade(scale(values[trial])), linewidth=1.5)
    for number, axis in enumerate([*axes, last]):
        plot.axvline(number, color="#444", linewidth=0.8)
        for place, text in axis.ticks.items():
            box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
            plot.text(
                number + 0.03, place, text, va="center", fontsize=9, bbox=box, parse_math=False
            )
    plot.set_xticks(range(len(columns)), [a.name for a in [*axes, last]], parse_math=False)
    plot.set_xlim(-0.1, len(columns) - 1 + 0.5)
    plot.set_ylim(-0.03, 1.03)
    plot.set_yticks([])
    plot.spines[["left", "right", "top", "bottom"]].set_visible(False)
    figure.colorbar(ScalarMappable(scale, shade), ax=plot, label=metric, pad=0.02)
    return figure


def _spread(axis: Axis, values: Sequence[float]) -> list[float]:
    """Move trials at the same place of an axis a little apart, in the order of their values."""
    places = np.asarray(axis.places, dtype=float)
    moved = places.copy()
    for place in np.unique(places):
        (here,) = np.nonzero(places == place)
        order = here[np.argsort(np.asarray(values)[here], kind="stable")]
        moved[order] += np.linspace(_SPREAD, -_SPREAD, len(order)) if len(order) > 1 else 0
    result: list[float] = moved.tolist()
    return result
