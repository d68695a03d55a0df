"""Parts of all plots: saving in two formats, intervals, and names that may be any text."""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from matplotlib.text import Text

from sceneparse.metrics.intervals import Interval

logger = logging.getLogger(__name__)
# Fonts for letters that the usual one lacks, where they are installed.
_MORE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *("Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "PingFang SC", "Hiragino Sans"),
    *("Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai"),
)
# Grey that both white and near-black paper show well.
_INK = "#808080"


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as PATH.png and PATH.svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        draw_file(figure, path.with_suffix(suffix), suffix[1:])


def draw_file(figure: Figure, target: Path | BinaryIO, kind: str, **look: Any) -> None:  # noqa: ANN401
    """Write a figure as a file of this kind; log which letters no installed font has."""
    installed = set(fontManager.get_font_names())
    families = ["sans-serif", *(name for name in _MORE_FONTS if name in installed)]
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph ")
        figure.savefig(target, format=kind, **{"dpi": 120, "bbox_inches": "tight", **look})
    found = (re.match(r"Glyph (\d+) ", str(warning.message)) for warning in caught)
    if letters := "".join(sorted({chr(int(glyph[1])) for glyph in found if glyph})):
        _log_boxes(letters)


@cache  # once, as each plot is written in several formats
def _log_boxes(letters: str) -> None:
    logger.warning(
        "plots show boxes for letters that no font here has: %s; install a font that has them, "
        "such as Noto Sans CJK",
        letters,
    )


def short_names(names: Sequence[str]) -> list[str]:
    """Return names of at most 32 letters, since longer ones leave no room for the plot."""
    return [f"{name[:31]}\u2026" if len(name) > 32 else name for name in names]


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
    axes.set_yticks(range(len(names)), short_names(names), parse_math=False)
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
    legend = place.legend([*lines.values()], short_names([*lines]), **arrangement)
    for text in legend.get_texts():
        text.set_parse_math(False)
