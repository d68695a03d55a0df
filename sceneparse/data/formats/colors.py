"""Masks painted in a colour per class."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sceneparse.data.formats.shared.source import (
    Item,
    Source,
    labels_of_codes,
    pair_by_name,
    read_table,
)
from sceneparse.data.labels import Color, Labels, ignore_index_for
from sceneparse.data.reading import read_image
from sceneparse.errors import InputError, first_few


def read(masks: Path, images: Path, table: Path) -> Source:
    """Read RGB masks; the table is a CSV with the columns name,r,g,b and a line per class.

    A class named "ignore" or "void" is not trained on.
    """
    rows = read_table(table, ("name", "r", "g", "b"))
    colors = {row["name"]: _color(row, table) for row in rows}
    names = [name for name in colors if name.lower() not in {"ignore", "void"}]
    ignore = ignore_index_for(len(names))
    labels = dict.fromkeys(colors.values(), ignore)
    labels |= {colors[name]: k for k, name in enumerate(names)}
    if len(labels) != len(rows):
        raise InputError(f"{table}: two classes share a name or a colour")
    items = [
        Item(pair.image, partial(_decode_colors, pair.mask, labels))
        for pair in pair_by_name(images, masks)
    ]
    return Source(names, items, [colors[name] for name in names])


def _decode_colors(path: Path, labels: Mapping[Color, int]) -> Labels:
    codes = {(r << 16) | (g << 8) | b: label for (r, g, b), label in labels.items()}
    mask, unknown = labels_of_codes(read_image(path), codes)
    if unknown:
        shown = first_few(
            f"({code >> 16},{code >> 8 & 255},{code & 255}) ({count} px)"
            for code, count in sorted(unknown.items())
        )
        raise InputError(f"{path}: colours outside the table: {shown}")
    return mask


def _color(row: Mapping[str, str], table: Path) -> Color:
    values = [int(row[k]) if row[k].isdecimal() else -1 for k in ("r", "g", "b")]
    if not 0 <= min(values) <= max(values) <= 255:
        raise InputError(f"{table}: expected r,g,b in 0..255 for '{row['name']}'")
    return values[0], values[1], values[2]
