"""What a net costs beside what it gains: a table, and plots with the Pareto front marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sceneparse.metrics.significance import MeanDifference
from sceneparse.report.plots import add_legend
from sceneparse.report.tables import Table, points, verdict_word
from sceneparse.studies.seeds import Spread

# Costs of one net by the keys of COSTS.
Costs = Mapping[str, float]


@dataclass(frozen=True)
class Kind:
    """How a cost is shown: head of the column, its unit in plain numbers, and what is better."""

    head: str
    unit: float
    more_is_better: bool = False


COSTS = {
    "parameters": Kind("parameters (M)", 1e6),
    "macs": Kind("multiply-adds (M)", 1e6),
    "saved_bytes": Kind("kept for backward (MB/image)", 2**20),
    "peak_bytes": Kind("peak training memory (MB)", 2**20),
    "forward": Kind("forward (images/s)", 1, more_is_better=True),
    "training": Kind("training (images/s)", 1, more_is_better=True),
}


def cost_table(gains: Sequence[MeanDifference], first: str, costs: Mapping[str, Costs]) -> Table:
    """Lay out the gain over `first` beside each cost, and the cost's ratio to that of `first`."""
    kinds = _measured(costs)
    found = {gain.second: [points(gain.value), verdict_word(gain)] for gain in gains}
    rows = [
        [
            name,
            *found.get(name, ["", ""]),
            *(_cell(kind, own[key], costs[first][key]) for key, kind in kinds.items()),
        ]
        for name, own in costs.items()
    ]
    heads = ["", f"points over {first}", "", *(kind.head for kind in kinds.values())]
    return Table("Gain beside cost", heads, rows)


def _measured(costs: Mapping[str, Costs]) -> dict[str, Kind]:
    known = next(iter(costs.values()))
    return {key: kind for key, kind in COSTS.items() if key in known}


def _cell(kind: Kind, value: float, reference: float) -> str:
    digits = 2 if value / kind.unit < 100 else 0
    return f"{value / kind.unit:.{digits}f} ({value / reference:.2f}x)"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find which (cost, gain) no other point beats: as cheap or cheaper and as good or better."""
    return [
        k
        for k, (cost, gain) in enumerate(points)
        if not any(
            other_cost <= cost and other_gain >= gain and (other_cost, other_gain) != (cost, gain)
            for other_cost, other_gain in points
        )
    ]


def draw_trade_offs(accuracies: Mapping[str, Spread], costs: Mapping[str, Costs]) -> Figure:
    """Draw accuracy, with intervals over seeds, against each cost; the front is a dashed line."""
    kinds, lines = _measured(costs), {}
    columns = min(len(kinds), 3)
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(4.5 * columns, 4 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (key, kind) in zip(panels, kinds.items(), strict=False):
        lines = draw_panel(axes, kind, accuracies, [costs[name][key] for name in accuracies])
        axes.set_ylabel("test accuracy (%), last epoch")
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    add_legend(figure, lines, loc="outside lower center", ncols=min(len(lines), 6))
    return figure


def draw_panel(
    axes: Axes,
    kind: Kind,
    spreads: Mapping[str, Spread],
    costs: Sequence[float],
    *,
    with_intervals: bool = True,
    size: float = 6,
) -> dict[str, Line2D]:
    """Draw the mean of each net in percent against its cost; return the lines for the legend.

    Nets on the Pareto front are dots joined by a dashed line, the others crosses.
    """
    means = [100 * spread.mean for spread in spreads.values()]
    values = [cost / kind.unit for cost in costs]
    signed = [-value if kind.more_is_better else value for value in values]
    front = pareto_front([*zip(signed, means, strict=True)])
    lines = {}
    for k, (name, spread) in enumerate(spreads.items()):
        # The colours of the other plots, which are drawn in the same order.
        ink, shape = f"C{k}", "o" if k in front else "x"
        if with_intervals and len(spread.values) > 1:
            ends = [100 * max(spread.low, 0), 100 * min(spread.high, 1)]
            axes.plot([values[k]] * 2, ends, color=ink, linewidth=1.5, alpha=0.5)
        (lines[name],) = axes.plot(values[k], means[k], shape, color=ink, markersize=size)
    order = sorted(front, key=lambda k: values[k])
    (lines["Pareto front of the means"],) = axes.plot(
        [values[k] for k in order],
        [means[k] for k in order],
        color="#777",
        linestyle="--",
        linewidth=1,
        zorder=0,
    )
    axes.set_xlabel(kind.head + (", more is better" if kind.more_is_better else ""))
    axes.grid(alpha=0.3)
    return lines
