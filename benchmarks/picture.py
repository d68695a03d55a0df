"""Draw the rows of a benchmark as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.rows import Row

_BETTER, _WORSE = "#3b7dd8", "#d98f3b"


def draw_ratios(rows: Sequence[Row], path: Path) -> None:
    """Draw the ratio of each row with its interval, on a logarithmic axis.

    The suffix of `path` sets the format. A row that was measured once has no interval.
    """
    figure = Figure(figsize=(8, 1 + 0.28 * len(rows)))
    axes = figure.subplots()
    places = range(len(rows))
    ratios = [row.ratio for row in rows]
    colors = [_BETTER if ratio >= 1 else _WORSE for ratio in ratios]
    # On a logarithmic axis, bars start at 1.
    axes.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colors)
    for place, row in zip(places, rows, strict=True):
        low, high = (row.ratio, row.ratio) if row.turns == 1 else (row.low, row.high)
        axes.plot([low, high], [place, place], color="black", lw=1)
        end = max(high, 1)
        axes.annotate(
            f"{row.ratio:.2f}x", (end, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [row.name for row in rows])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="black", lw=0.8)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel("ours against the reference, mean and 95% interval (right of 1x: better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, bbox_inches="tight")
