"""Parts of all plots: saving in two formats, intervals, and names that may be any text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from sceneparse.metrics.intervals import Interval

# Grey that both white and near-black paper show well.
_INK = "#808080"


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as PATH.png and PATH.svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120, bbox_inches="tight")


def adapt_to_page(figure: Figure) -> None:
    """Make the ground of a figure transparent, and its black lines and text grey.

    So it is readable on light and dark pages. Text above a picture, as in a matrix, stays.
    """
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=_INK, which="both")
        for spine in axes.spines.values():
            spine.set_color(_INK)
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if legend is not None:
            legend.get_frame().set_alpha(0)
    above_pictures = {text for axes in figure.axes if axes.images for text in axes.texts}
    drawn = [found for found in figure.findobj() if isinstance(found, Line2D | Text)]
    for artist in drawn:
        is_black = to_hex(artist.get_color(), keep_alpha=True) == "#000000ff"
        if is_black and artist not in above_pictures:
            artist.set_color(_INK)


def named_lines(
    names: Sequence[str],
    size: tuple[float, float],
    label: str,
    layout: Any = None,  # noqa: ANN401
) -> tuple[Figure, Axes]:
    """Create axes with a line per name (any text), from top to bottom."""
    figure = Figure(figsize=size, layout=layout)
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def draw_interval(
    axes: Axes, place: float, found: Interval, color: str, width: float, alpha: float = 1
) -> None:
    """Draw an interval of shares in percent, on the line at `place`."""
    ends = [100 * found.low, 100 * found.high]
    axes.plot(ends, [place] * 2, color=color, linewidth=width, alpha=alpha)


def add_legend(
    place: Axes | Figure,
    lines: Mapping[str, Line2D],
    **arrangement: Any,  # noqa: ANN401
) -> None:
    """Add a legend of lines by name; names may be any text, `_x` and `a$b$` too."""
    legend = place.legend([*lines.values()], [*lines], **arrangement)
    for text in legend.get_texts():
        text.set_parse_math(False)
