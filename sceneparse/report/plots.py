"""What all plots share: both file formats, and legends whose names may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_SUFFIXES = (".png", ".svg")


def save_plot(figure: Figure, path: Path) -> None:
    """Write a figure as PATH.png and PATH.svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in _SUFFIXES:
        figure.savefig(path.with_suffix(suffix), dpi=120, bbox_inches="tight")


def add_legend(
    place: Axes | Figure,
    lines: Mapping[str, Line2D],
    **arrangement: Any,  # noqa: ANN401
) -> None:
    """Name lines by texts that may be anything, `_x` and `a$b$` too."""
    legend = place.legend([*lines.values()], [*lines], **arrangement)
    for text in legend.get_texts():
        text.set_parse_math(False)
