"""Draw the rows of a benchmark: ratios as bars, or costs against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.rows import Row
from sceneparse.errors import InputError
from sceneparse.studies.costs import pareto_front

_BETTER, _WORSE = "#3b7dd8", "#d98f3b"
_SHAPES = "os^vDP*"
# Width of a letter and height of a line of labels, in points.
_LETTER, _LINE = 4.0, 8.0


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


def check_picture(path: Path) -> None:
    """Raise InputError if the suffix of a picture is not known, before any measuring."""
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise InputError(
            f"cannot draw '{path}': its suffix must be one of .{', .'.join(sorted(known))}"
        )


@dataclass(frozen=True)
class Point:
    """A point with its intervals: x and y are value, low and high.

    `name`: of what is drawn; points of one name, such as forms of a network, are joined, and share
    a `label`, which may be empty. `group`: its legend entry.
    """

    name: str
    label: str
    group: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]

    @property
    def place(self) -> tuple[float, float]:
        """The values without the intervals."""
        return self.x[0], self.y[0]


def draw_points(
    points: Sequence[Point], path: Path, labels: tuple[str, str], caption: str, front: bool = False
) -> None:
    """Draw points with labels on a logarithmic x axis; without `front` y is logarithmic too.

    `front`: draw the Pareto front, of points that no other has a smaller x and a larger y than.
    """
    figure = Figure(figsize=(9, 6.5))
    axes = figure.subplots()
    axes.set_xscale("log")
    if front:
        found = pareto_front([point.place for point in points])
        stairs = sorted(points[k].place for k in found)
        axes.plot(*zip(*stairs, strict=True), color="#777", ls="--", lw=1, label="Pareto front")
    else:
        axes.set_yscale("log")
    for number, group in enumerate(dict.fromkeys(point.group for point in points)):
        _draw_group(axes, [point for point in points if point.group == group], number)
    _draw_labels(axes, points, figure.dpi)
    axes.set_xlabel("\n".join([labels[0], *wrap(caption, 100)]))
    axes.set_ylabel(labels[1])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100, bbox_inches="tight")


def _draw_group(axes: Axes, points: Sequence[Point], number: int) -> None:
    """Draw the points of one legend entry in one colour and shape."""
    ink, shape = f"C{number}", _SHAPES[number % len(_SHAPES)]
    for point in points:
        axes.plot(point.x[1:], [point.y[0]] * 2, color=ink, linewidth=1, alpha=0.6)
        axes.plot([point.x[0]] * 2, point.y[1:], color=ink, linewidth=1, alpha=0.6)
    places = zip(*(point.place for point in points), strict=True)
    axes.plot(*places, shape, color=ink, markersize=6, label=points[0].group)


def _draw_labels(axes: Axes, points: Sequence[Point], dpi: float) -> None:
    """Join the points of each name, and label the right one, above labels that are in the way."""
    axes.autoscale_view()
    taken: list[tuple[float, float, float]] = []
    for name in dict.fromkeys(point.name for point in sorted(points, key=lambda p: p.y[0])):
        same = sorted((point for point in points if point.name == name), key=lambda p: p.x[0])
        axes.plot(*zip(*(p.place for p in same), strict=True), color="#bbb", lw=0.8, zorder=0)
        x, start = axes.transData.transform(same[-1].place) * 72 / dpi
        if not same[-1].label:
            continue
        end, y = x + _LETTER * len(same[-1].label), start
        while any(x < b and a < end and abs(y - other) < _LINE for a, b, other in taken):
            y += _LINE
        taken.append((x, end, y))
        arrow = {"arrowstyle": "-", "color": "#bbb", "lw": 0.5} if y > start else None
        offset = 6, 3 + y - start
        axes.annotate(
            *(same[-1].label, same[-1].place, offset),
            textcoords="offset points",
            fontsize=7,
            arrowprops=arrow,
        )
