"""Colours for classes that have none: vivid, and told apart with colour-blind eyes.

The first seven are those of Okabe and Ito (Color Universal Design, 2008) without black. Each
further one is the candidate that is farthest from all before it, in OKLab (Ottosson, 2020), as seen
with normal vision and with the two common kinds of colour blindness (Machado et al., 2009).
"""

import re
from collections.abc import Sequence
from functools import cache
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
_OKABE_ITO: list[Color] = [
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
]
_BLACK = (0, 0, 0)
_LEVELS = (0, 36, 73, 109, 146, 182, 219, 255)
# Limits of candidates in OKLab: neither grey, nor nearly black or white.
_MIN_CHROMA, _MIN_LIGHTNESS, _MAX_LIGHTNESS = 0.09, 0.38, 0.94
# Steps through all 2^24 colours that change each channel much; odd, so that none comes twice.
_STEP = 0x9E3779

_LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]
_PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
_DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]

_BACKGROUNDS = {
    *("background", "bg", "backdrop", "void", "none", "nothing", "other", "others"),
    *("unlabeled", "unlabelled", "ignore", "ignored"),
}


def is_background(name: str) -> bool:
    """Return whether a class is the rest around the others, by its name.

    The names are those of _BACKGROUNDS, whatever their capitals, with or without underscores around
    them, alone or as one of several names between slashes, commas or semicolons.
    """
    parts = re.split("[/,;]", name)
    return any(part.strip(" _-").casefold() in _BACKGROUNDS for part in parts)


def palette(names: Sequence[str]) -> list[Color]:
    """Return a colour for each class, no two equal: black for the first background, then vivid."""
    colors = palette_colors(len(names))
    first = next((k for k, name in enumerate(names) if is_background(name)), None)
    if first is not None:
        colors = [*colors[:first], _BLACK, *colors[first:-1]]
    return colors


def palette_color(index: int) -> Color:
    """Return colour number `index` of the palette."""
    return palette_colors(index + 1)[index]


def palette_colors(count: int) -> list[Color]:
    """Return the first `count` colours, no two equal and none black."""
    found = _farthest_colors()
    if count <= len(found):
        return found[:count]
    used = {_BLACK, *found}
    codes = (number * _STEP % 2**24 for number in range(1, 2**24))
    others = ((code >> 16, code >> 8 & 255, code & 255) for code in codes)
    return [*found, *islice((c for c in others if c not in used), count - len(found))]


@cache
def _farthest_colors() -> list[Color]:
    """Order all candidates: each is the farthest from those before it."""
    grid: list[Color] = list(product(_LEVELS, _LEVELS, _LEVELS))
    candidates = [color for color in grid if _is_vivid(color)]
    colors = [*_OKABE_ITO, *candidates]
    seen = _as_seen([*colors, _BLACK])
    near = np.abs(_distances(seen[:-1], seen[-1]))
    order: list[int] = []
    for place in range(len(colors)):
        chosen = place if place < len(_OKABE_ITO) else int(near.argmax())
        order.append(chosen)
        near = np.minimum(near, _distances(seen[:-1], seen[chosen]))
        near[order] = -1
    return list(dict.fromkeys(colors[k] for k in order))


def _is_vivid(color: Color) -> bool:
    lightness, a, b = _oklab(_linear([color]))[0]
    return bool(np.hypot(a, b) >= _MIN_CHROMA and _MIN_LIGHTNESS <= lightness <= _MAX_LIGHTNESS)


def _as_seen(colors: Sequence[Color]) -> NDArray[np.float64]:
    """Return OKLab values (N, 3 kinds of eyes, 3) of colours."""
    linear = _linear(colors)
    kinds = [np.eye(3), np.array(_PROTANOPIA), np.array(_DEUTERANOPIA)]
    return np.stack([_oklab((linear @ kind.T).clip(0, 1)) for kind in kinds], axis=1)


def _distances(seen: NDArray[np.float64], one: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return distances (N,): as seen by normal eyes, plus half of what other eyes see at least."""
    by_eyes = np.linalg.norm(seen - one, axis=2)
    total: NDArray[np.float64] = by_eyes[:, 0] + 0.5 * by_eyes[:, 1:].min(axis=1)
    return total


def _linear(colors: Sequence[Color]) -> NDArray[np.float64]:
    values = np.array(colors, dtype=np.float64) / 255
    curved: NDArray[np.float64] = ((values + 0.055) / 1.055) ** 2.4
    return np.where(values <= 0.04045, values / 12.92, curved)


def _oklab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    lab: NDArray[np.float64] = np.cbrt(linear @ np.array(_LMS).T) @ np.array(_LAB).T
    return lab
