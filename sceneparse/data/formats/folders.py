"""Folders of images and of masks that hold class numbers, however they are named and nested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sceneparse.data.datasets import spread
from sceneparse.data.decoding import open_image
from sceneparse.data.formats.shared.classes import Classes, read_classes
from sceneparse.data.formats.shared.colors import color_source, colors_in, describe_colors
from sceneparse.data.formats.shared.layouts import MaskPair, MaskPairs, find_pairs
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import IGNORE_8_BIT, Labels
from sceneparse.data.reading import read_labels, read_mask
from sceneparse.errors import InputError, first_few

GENERAL = True
CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "codes.txt")
# Masks that are looked at to see of which kind all are.
_LOOKED_AT = 8
_BINARY = ("background", "foreground")
_BLACK_AND_WHITE = ((0, 0, 0), (255, 255, 255))


def recognise(source: Path, images: Path | None = None) -> str | None:
    """Recognise a folder of images and masks that can be told apart and paired by their names.

    With the folder of the `images`, the source holds masks alone.
    """
    if not source.is_dir():
        return None
    try:
        pairs = find_pairs(source, images).pairs
    except InputError:
        return None
    return f"{pairs[0].mask.name} is the mask of {pairs[0].image.name}" if pairs else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read masks of class numbers 0..K-1; 255 is ignored, but in masks of 0 and 255 it is class 1.

    Names are those of --classes or classes.txt; with colours there, masks may be painted.
    """
    found = find_pairs(source, images)
    pairs, named = found.pairs, _classes_of(source, classes)
    if pairs and _is_colored(pairs[0].mask):
        return color_source(found, _table(named, pairs[0].mask), None, "error")
    if pairs and named and named.colors and all(len({*color}) == 1 for color in named.colors):
        return color_source(found, named, None, "error")
    return number_source(found, named)


def masks_without_table(source: Path) -> list[Path]:
    """Return all masks of a folder if no table names their colours, or greys that are no numbers.

    Black and white masks of two classes need no table. Raises InputError as `read` does.
    """
    masks = [pair.mask for pair in find_pairs(source, None).pairs]
    named = _classes_of(source, None)
    shown = [masks[i] for i in spread(len(masks), _LOOKED_AT)] if masks else []
    if not shown or (named and named.colors):
        return []
    if any(map(_is_colored, shown)):
        two = named is None or len(named.names) == 2
        found = {color for mask in shown for color in colors_in(mask)}
        return [] if two and found <= {*_BLACK_AND_WHITE} else masks
    values = sorted({value for mask in shown for value in _values_of(mask)} - {255, 65535})
    return [] if named or values == [0] or _are_numbers(values) else masks


def _classes_of(source: Path, file: Path | None) -> Classes | None:
    """Return the classes of a file, or those that a file in the source names."""
    file = file or next((source / n for n in CLASS_FILES if (source / n).is_file()), None)
    return None if file is None else read_classes(file)


def _table(named: Classes | None, mask: Path) -> Classes:
    """Return a table of colours: the one given, or that of black and white masks."""
    if named is not None and named.colors is not None:
        return named
    names = _BINARY if named is None else named.names
    if len(names) == 2 and {*colors_in(mask)} <= {*_BLACK_AND_WHITE}:
        return Classes([*names], colors=[*_BLACK_AND_WHITE])
    raise InputError(
        f"{mask}: this mask holds colours, not class numbers: {describe_colors(colors_in(mask))}; "
        "write a table with a line NAME,R,G,B per class and give it with --classes"
    )


def number_source(found: MaskPairs, named: Classes | None) -> Source:
    """Return the source of masks that hold class numbers, with these names or numbered ones."""
    values = np.unique([value for pair in found.pairs for value in _values_of(pair.mask)])
    draw: Callable[[Path], Labels] = read_mask
    if values.tolist() == [0, 255] and (named is None or len(named.names) == 2):
        draw = _read_binary
        named = named or Classes([*_BINARY])
        found.notes.append(f"masks hold only 0 and 255: 255 becomes class 1, '{named.names[1]}'")
    elif named is None:
        named = Classes(_numbered(values, found.pairs))
    items = [Item(p.image, p.name, partial(draw, p.mask), p.split) for p in found.pairs]
    return Source(named.names, items, found.skipped, named.colors, found.notes)


def _is_colored(mask: Path) -> bool:
    with open_image(mask) as image:
        return image.mode in {"RGB", "RGBA"}


def _values_of(mask: Path) -> list[int]:
    if mask.suffix.lower() in {".jpg", ".jpeg", ".jfif"}:
        raise InputError(
            f"{mask}: JPEG changes class numbers; save masks as PNG, or name the greys as colours "
            "with --as colors --classes TABLE --unknown-colors nearest"
        )
    labels, transparent = read_labels(mask)
    values: list[int] = np.unique(labels[~transparent]).tolist()
    return values


def _read_binary(mask: Path) -> Labels:
    labels, transparent = read_labels(mask)
    return np.where(transparent, IGNORE_8_BIT, labels > 0).astype(np.uint8)


def _numbered(values: Iterable[int], pairs: Sequence[MaskPair]) -> list[str]:
    """Return names for the class numbers found; InputError if they are no class numbers."""
    found = [int(value) for value in values if value not in {255, 65535}]
    if not found:
        raise InputError(
            f"{pairs[0].mask.parent}: every pixel of the masks is {first_few(values)}, which means "
            "ignored; there is nothing to learn: store the classes as 0, 1, 2, ..."
        )
    if not _are_numbers(found):
        raise InputError(
            f"{pairs[0].mask.parent}: masks hold the values {first_few(values, 10)}, which are not "
            "0, 1, 2, ...; name a class per value in a table NAME,V,V,V and give it with "
            "--as colors --classes TABLE, or name all classes with --classes FILE"
        )
    return [f"class_{number}" for number in range(max([1, *found]) + 1)]


def _are_numbers(values: Sequence[int]) -> bool:
    """Return whether values are class numbers: most of those up to the largest occur."""
    return bool(values) and len(values) * 2 >= max(1, *values)
