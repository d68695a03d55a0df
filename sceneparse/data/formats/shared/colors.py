"""Masks whose colours stand for classes: lookup by code, and colours outside the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.labels import Color, Labels
from sceneparse.errors import InputError, first_few, unknown_name

_ROWS_AT_ONCE = 256
UNKNOWN_COLORS = ("error", "ignore", "nearest")


def labels_of_codes(
    picture: NDArray[np.uint8], label_of: Mapping[int, int]
) -> tuple[Labels, dict[int, int]]:
    """Return the label of every pixel by its code, red << 16 | green << 8 | blue.

    Returns the labels (H, W), and the number of pixels per code that has no label.
    """
    lookup = np.full(2**24, -1, np.int32)
    lookup[list(label_of.keys())] = list(label_of.values())
    labels = np.empty(picture.shape[:2], np.uint16)
    unknown: Counter[int] = Counter()
    for top in range(0, len(picture), _ROWS_AT_ONCE):
        band = picture[top : top + _ROWS_AT_ONCE].astype(np.uint32)
        codes = band[..., 0] << 16 | band[..., 1] << 8 | band[..., 2]
        found = lookup[codes]
        labels[top : top + _ROWS_AT_ONCE] = found
        if found.min(initial=0) < 0:
            values, counts = np.unique(codes[found < 0], return_counts=True)
            unknown.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return labels, unknown


def labels_of_colors(
    picture: NDArray[np.uint8],
    label_of: Mapping[Color, int],
    ignore: int,
    *,
    unknown_colors: str,
    path: Path,
    skipped: Skipped,
) -> Labels:
    """Return the label of every pixel (H, W, 3) by its colour.

    Colours outside the table are an error, ignored, or of the nearest colour in RGB, as
    `unknown_colors` says; they are counted in `skipped`. Raises InputError.
    """
    codes = {code_of(color): label for color, label in label_of.items()}
    labels, unknown = labels_of_codes(picture, codes)
    if not unknown:
        return labels
    if unknown_colors == "error":
        shown = first_few(f"{_color_of(code)} ({n} px)" for code, n in sorted(unknown.items()))
        raise InputError(
            f"{path}: colours outside the table: {shown}; add them to the table, or take them as "
            "ignored or as the nearest colour with --unknown-colors ignore or nearest"
        )
    if unknown_colors == "ignore":
        codes |= dict.fromkeys(unknown, ignore)
    else:
        codes |= {code: codes[_nearest(code, list(codes))] for code in unknown}
    kind = "ignored" if unknown_colors == "ignore" else "taken as the nearest colour"
    skipped.add(f"pixels of colours outside the table, {kind}", path, sum(unknown.values()))
    return labels_of_codes(picture, codes)[0]


def require_rule(unknown_colors: str) -> None:
    """Raise InputError unless the rule for colours outside the table is known."""
    if unknown_colors not in UNKNOWN_COLORS:
        raise unknown_name("rule for unknown colours", unknown_colors, UNKNOWN_COLORS)


def code_of(color: Color) -> int:
    """Return the code of a colour: red << 16 | green << 8 | blue."""
    return color[0] << 16 | color[1] << 8 | color[2]


def _color_of(code: int) -> str:
    return f"({code >> 16},{code >> 8 & 255},{code & 255})"


def _nearest(code: int, codes: list[int]) -> int:
    def distance(other: int) -> int:
        return sum(((code >> shift & 255) - (other >> shift & 255)) ** 2 for shift in (0, 8, 16))

    return min(codes, key=distance)
