"""Pictures whose colours stand for labels. The code of a colour: red << 16 | green << 8 | blue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sceneparse.data.labels import Color, Labels

_ROWS_AT_ONCE = 256


def labels_of_codes(
    picture: NDArray[np.uint8],
    label_of: Mapping[int, int],
    transparent: NDArray[np.bool_] | None = None,
) -> tuple[Labels, dict[int, int]]:
    """Return the label of every pixel (H, W), and the number of pixels per code without label.

    The colours of `transparent` pixels (H, W) are not seen: they need no label, and get any.
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
        without = found < 0
        if transparent is not None:
            without &= ~transparent[top : top + _ROWS_AT_ONCE]
        if without.any():
            values, counts = np.unique(codes[without], return_counts=True)
            unknown.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return labels, unknown


def code_of(color: Color) -> int:
    """Return the code of a colour."""
    return color[0] << 16 | color[1] << 8 | color[2]


def color_of(code: int) -> Color:
    """Return the colour of a code."""
    return code >> 16, code >> 8 & 255, code & 255
