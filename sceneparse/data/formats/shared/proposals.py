"""Propose a table of colours for painted masks that come without one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.color_codes import color_of
from sceneparse.data.formats.shared.classes import IGNORE
from sceneparse.data.formats.voc import VOC_CLASSES
from sceneparse.data.labels import Color, load_label_table
from sceneparse.data.reading import read_all, read_colors

# More colours, or so many rare ones, are smoothed edges or JPEG noise.
_MAX_COLORS, _RARE_SHARE = 64, 0.005
# A palette is recognised by so many of its colours, without black.
_MIN_KNOWN = 3
# Of smoothed black and white masks: values close to black or white, the largest share of others,
# how many kinds of noise there are at least, how far the channels of grey differ in a JPEG, and
# the pixels of a mask that are looked at.
_NEAR, _MAX_MIDDLE, _MIN_KINDS, _MAX_TINT, _SAMPLED = 64, 0.05, 3, 40, 250_000
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_WORDS: dict[Color, str] = {
    _BLACK: "background",
    _WHITE: "white",
    (255, 0, 0): "red",
    (0, 255, 0): "green",
    (0, 0, 255): "blue",
    (255, 255, 0): "yellow",
    (255, 0, 255): "magenta",
    (0, 255, 255): "cyan",
}
_TABLES = {"camvid": "CamVid", "cityscapes": "Cityscapes", "ade20k": "ADE20K"}
_VOC_OUTLINE = (224, 224, 192)


def propose_table(masks: Sequence[Path]) -> tuple[dict[Color, str], str] | None:
    """Return a name for each colour of all masks, and a line about where the names come from.

    The names are those of the one known dataset that has all the colours, or words for colours.
    Returns None for masks of many colours, or of smoothed edges. Raises InputError for masks that
    cannot be read.
    """
    counts = _colors_of(masks)
    if not 2 <= len(counts) <= _MAX_COLORS:
        return None
    fitting = {
        dataset: names
        for dataset, names in known_palettes().items()
        if len(counts.keys() & names.keys() - {_BLACK}) >= _MIN_KNOWN and counts.keys() <= {*names}
    }
    if len(fitting) == 1:
        dataset, names = next(iter(fitting.items()))
        chosen = {color: name for color, name in names.items() if color in counts}
        return chosen, f"their names are those of the palette of {dataset}"
    if _is_smoothed(counts):
        return None
    are_grey = all(len({*color}) == 1 for color in counts)
    order = sorted(
        counts, key=lambda color: (color != _BLACK, color if are_grey else -counts[color])
    )
    names = {color: _word_for(color) for color in order}
    return names, "no known dataset has just these, so they are named by their looks"


def _word_for(color: Color) -> str:
    if color in _WORDS:
        return _WORDS[color]
    is_grey = len({*color}) == 1
    return f"grey_{color[0]}" if is_grey else "color_{:02x}{:02x}{:02x}".format(*color)


def are_smoothed_black_and_white(masks: Sequence[Path]) -> bool:
    """Return whether some masks are black and white but for smoothed edges or JPEG noise.

    Nearly all pixels are close to black or to white, and the others have values of all kinds, as
    class numbers have not. Raises InputError for masks that cannot be read.
    """
    counts = np.zeros(256, np.int64)
    for pixels in read_all(_some_pixels, masks, "masks"):
        if np.ptp(pixels, axis=-1).max(initial=0) > _MAX_TINT:
            return False
        counts += np.bincount(pixels[:, 1], minlength=256)
    dark, middle, light = counts[:_NEAR], counts[_NEAR:-_NEAR], counts[-_NEAR:]
    kinds = [np.count_nonzero(dark[1:]), np.count_nonzero(middle), np.count_nonzero(light[:-1])]
    is_rare = middle.sum() <= _MAX_MIDDLE * counts.sum()
    return bool(is_rare and min(kinds) >= _MIN_KINDS)


def _some_pixels(path: Path) -> NDArray[np.uint8]:
    """Return the colours of an even sample of a mask's pixels (N, 3), without transparent ones."""
    picture, transparent = read_colors(path)
    step = max(math.isqrt(transparent.size // _SAMPLED), 1)
    return picture[::step, ::step][~transparent[::step, ::step]]


def known_palettes() -> dict[str, dict[Color, str]]:
    """Return the class of each colour in the palettes of known datasets; IGNORE: never counted."""
    palettes: dict[str, dict[Color, str]] = {}
    for name, dataset in _TABLES.items():
        rows = load_label_table(name).labels
        ignored = {row.color: IGNORE for row in rows if row.train_id is None}
        palettes[dataset] = {
            row.color: row.name.split(",")[0] for row in rows if row.train_id is not None
        }
        palettes[dataset] |= {c: n for c, n in ignored.items() if c not in palettes[dataset]}
    voc = {_voc_color(number): name for number, name in enumerate(VOC_CLASSES)}
    return {**palettes, "Pascal VOC": {**voc, _VOC_OUTLINE: IGNORE}}


def _voc_color(number: int) -> Color:
    """Return a colour of Pascal VOC: the bits of the number are spread over the channels."""
    red, green, blue = (
        sum((number >> 3 * k + channel & 1) << 7 - k for k in range(8)) for channel in range(3)
    )
    return red, green, blue


def _colors_of(masks: Sequence[Path]) -> Counter[Color]:
    """Count the pixels per colour of all masks; stops counting colours when there are too many."""
    counts: Counter[int] = Counter()
    for found in read_all(_codes_of, masks, "masks"):
        counts.update(found)
        if len(counts) > _MAX_COLORS:
            break
    return Counter({color_of(code): count for code, count in counts.items()})


def _codes_of(path: Path) -> Mapping[int, int]:
    """Return the pixels per code of a mask, without transparent ones."""
    picture, transparent = read_colors(path)
    wide = picture.astype(np.int32)
    codes: NDArray[np.int32] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    codes = codes[~transparent]
    # Runs of equal pixels are far fewer than pixels.
    starts = np.flatnonzero(np.diff(codes, prepend=codes[:1] + 1))
    lengths = np.diff(starts, append=len(codes))
    values, run_of = np.unique(codes[starts], return_inverse=True)
    pixels = np.bincount(run_of, lengths, len(values)).astype(np.int64)
    return dict(zip(values[: _MAX_COLORS + 1].tolist(), pixels.tolist(), strict=False))


def _is_smoothed(counts: Mapping[Color, int]) -> bool:
    """Return whether most colours are rare and lie between two frequent ones."""
    total = sum(counts.values())
    rare = [color for color, count in counts.items() if count < _RARE_SHARE * total]
    frequent = np.array([color for color in counts if color not in rare], float)
    blends = [color for color in rare if _is_blend(np.array(color, float), frequent)]
    return 2 * len(blends) > len(counts) - 2 and len(blends) > 1


def _is_blend(color: NDArray[np.float64], frequent: NDArray[np.float64]) -> bool:
    """Return whether a colour lies on a line between two others (N, 3), but for rounding."""
    start, end = frequent[:, None], frequent[None]
    along = end - start
    length = np.maximum((along**2).sum(-1, keepdims=True), 1)
    share = np.clip(((color - start) * along).sum(-1, keepdims=True) / length, 0, 1)
    return bool((np.abs(start + share * along - color).max(-1) <= 2).any())


def table_text(names: Mapping[Color, str]) -> str:
    """Return a table of colours as a file for --classes: a line NAME,R,G,B for each."""
    return "".join("{},{},{},{}\n".format(name, *color) for color, name in names.items())
