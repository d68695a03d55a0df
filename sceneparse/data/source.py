"""A data set in another format: its classes, and how to draw the mask of every image."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Color, Labels, ignore_index_for, palette_color
from sceneparse.errors import InputError


@dataclass(frozen=True)
class Item:
    """One image of a source, and how to draw its mask of train ids (H, W)."""

    image: Path
    draw: Callable[[], Labels]


@dataclass(frozen=True)
class Source:
    """A data set in another format: its classes, their colours, its images."""

    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    items: tuple[Item, ...]

    @property
    def ignore_index(self) -> int:
        """The label of pixels that belong to no class."""
        return ignore_index_for(len(self.classes))


def make_source(names: Sequence[str], items: Sequence[Item]) -> Source:
    """Make a source whose classes have the colours of the fixed palette."""
    return Source(tuple(names), tuple(palette_color(k) for k in range(len(names))), tuple(items))


def fill_polygon(mask: Labels, points: NDArray[np.float64], label: int) -> None:
    """Draw a polygon (N, 2) of x, y into a mask."""
    cv2.fillPoly(mask, [points.round().astype(np.int32)], label)


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON holds anything
    """Read a JSON file; raises InputError naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
