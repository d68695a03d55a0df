"""Colours for classes that have none: vivid, and told apart with colour-blind eyes.

palette.txt holds them as hexadecimal RGB. The first seven are those of Okabe and Ito (Color
Universal Design, 2008) without black. Each further one is, of a grid of 8 x 8 x 8 colours without
greys, near-black and near-white ones, the farthest from all before it and from black: by OKLab
(Ottosson, 2020), with normal vision plus half the distance with the worse of the two common kinds
of colour blindness (Machado et al., 2009).
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import islice

from sceneparse.data.color_codes import color_of

Color = tuple[int, int, int]
_BLACK = (0, 0, 0)
# Steps through all 2^24 colours that change each channel much; odd, so that none comes twice.
_STEP = 0x9E3779

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
    colors = _colors(len(names))
    first = next((k for k, name in enumerate(names) if is_background(name)), None)
    if first is not None:
        colors = [*colors[:first], _BLACK, *colors[first:-1]]
    return colors


def palette_color(index: int) -> Color:
    """Return colour number `index` of the palette."""
    return _colors(index + 1)[index]


def _colors(count: int) -> list[Color]:
    """Return the first `count` colours, no two equal and none black."""
    listed = _listed_colors()
    used = {_BLACK, *listed}
    codes = (color_of(number * _STEP % 2**24) for number in range(1, 2**24))
    others = (color for color in codes if color not in used)
    return [*listed[:count], *islice(others, max(count - len(listed), 0))]


@cache
def _listed_colors() -> list[Color]:
    """Read the colours of palette.txt."""
    text = (resources.files(__package__) / "palette.txt").read_text(encoding="utf-8")
    return [color_of(int(code, 16)) for code in text.split()]
