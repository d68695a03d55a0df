"""What a net costs beside what it gains: a table, and plots with the Pareto front marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sceneparse.report.classifiers import Comparison, Row
from sceneparse.report.layout import Table
from sceneparse.report.plots import add_legend
from sceneparse.report.words import points, verdict_word

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


def cost_table(comparison: Comparison, costs: Mapping[str, Costs]) -> Table:
    """Lay out the gain over the first group beside each cost, and the cost's ratio to the first."""
    first = comparison.rows[0].name
    kinds = _measured(costs)
    rows = []
    for row in comparison.rows:
        gain = ["", ""]
        if row.name != first:
            difference = comparison.against_first(row.name)
            gain = [points(difference.value), verdict_word(difference)]
        cells = [_cell(kinds[k], costs[row.name][k], costs[first][k]) for k in kinds]
        rows.append([row.name, *gain, *cells])
    heads = ["", f"points over {first}", "", *(kind.head for kind in kinds.values())]
    return Table("Gain beside cost", heads, rows)


def _measured(costs: Mapping[str, Costs]) -> dict[str, Kind]:
    known = next(iter(costs.values()))
    return {key: kind for key, kind in COSTS.items() if key in known}


def _cell(kind: Kind, value: float, reference: float) -> str:
    digits = 2 if value / kind.unit < 100 else 0
    return f"{value / kind.unit:.{digits}f} ({value / reference:.2f}x)"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which (cost, gain) no other point beats: none costs as little and gains as much or more."""
    return [
        k
        for k, (cost, gain) in enumerate(points)
        if not any(
            other_cost <= cost and other_gain >= gain and (other_cost, other_gain) != (cost, gain)
            for other_cost, other_gain in points
        )
    ]


def draw_front(
    axes: Axes, costs: Sequence[float], means: Sequence[float], front: Sequence[int]
) -> Line2D:
    """Join the points of the front by a dashed line, the cheapest first."""
    order = sorted(front, key=lambda k: costs[k])
    (line,) = axes.plot(
        [costs[k] for k in order],
        [means[k] for k in order],
        color="#777",
        linestyle="--",
        linewidth=1,
        zorder=0,
    )
    return line


def draw_trade_offs(comparison: Comparison, costs: Mapping[str, Costs]) -> Figure:
    """Draw accuracy, with intervals over seeds, against each cost; the front is a dashed line."""
    kinds, lines = _measured(costs), {}
    columns = min(len(kinds), 3)
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(4.5 * columns, 4 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (key, kind) in zip(panels, kinds.items(), strict=False):
        values = [costs[row.name][key] / kind.unit for row in comparison.rows]
        lines = _draw_panel(axes, kind, comparison.rows, values)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    add_legend(figure, lines, loc="outside lower center", ncols=min(len(lines), 6))
    return figure


def _draw_panel(
    axes: Axes, kind: Kind, rows: Sequence[Row], values: Sequence[float]
) -> dict[str, Line2D]:
    means = [100 * row.accuracy.mean for row in rows]
    signed = [-value if kind.more_is_better else value for value in values]
    front = pareto_front([*zip(signed, means, strict=True)])
    lines = {}
    for k, row in enumerate(rows):
        # The colours of the curves, which are drawn in the same order.
        ink, shape = f"C{k}", "o" if k in front else "x"
        if row.seeds > 1:
            span = [100 * max(row.accuracy.low, 0), 100 * min(row.accuracy.high, 1)]
            axes.plot([values[k]] * 2, span, color=ink, linewidth=1.5, alpha=0.5)
        (lines[row.name],) = axes.plot(values[k], means[k], shape, color=ink)
    lines["Pareto front of the means"] = draw_front(axes, values, means, front)
    axes.set_xlabel(kind.head + (", more is better" if kind.more_is_better else ""))
    axes.set_ylabel("test accuracy (%), last epoch")
    axes.grid(alpha=0.3)
    return lines
