"""A table (CSV, TSV, list) of images and their masks of class numbers."""

from __future__ import annotations

import re
from pathlib import Path

from sceneparse.data.file_names import require_storable
from sceneparse.data.formats.folders import number_source
from sceneparse.data.formats.shared.classes import read_classes
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.layouts import MaskPair, MaskPairs
from sceneparse.data.formats.shared.source import Source
from sceneparse.data.formats.shared.splits import split_named
from sceneparse.data.tables import TABLE_SUFFIXES, find_columns, read_rows
from sceneparse.errors import InputError

_COLUMNS = {
    "image": ("img", "images", "image_path", "filename", "file", "input", "photo", "rgb"),
    "mask": ("label", "labels", "masks", "mask_path", "annotation", "gt", "target", "segmentation"),
}


def recognise(source: Path) -> str | None:
    """Recognise a table whose header names the columns image and mask."""
    if source.suffix.lower() not in TABLE_SUFFIXES or not source.is_file():
        return None
    try:
        rows = read_rows(source)
        found = find_columns(rows[0].cells, _COLUMNS, source) if rows else None
    except InputError:
        return None
    return f"its columns are {', '.join(rows[0].cells)}" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read the columns image and mask, and split if it is there; paths below the table's folder.

    Masks hold 0..K-1; 255 is ignored.
    """
    header, *rows = read_rows(source)
    columns = find_columns(header.cells, _COLUMNS, source)
    if columns is None or not rows:
        raise InputError(
            f"{source}: expected the columns image,mask, found {', '.join(header.cells)}"
        )
    split = find_columns(header.cells, {"split": ("subset", "set")}, source)
    finder, masks = ImageFinder(images or source.parent), ImageFinder(source.parent)
    pairs = []
    for number, cells in rows:
        place = f"{source}, line {number}"
        if len(cells) != len(header.cells) or not all(cells[k] for k in columns.values()):
            raise InputError(f"{place}: expected {len(header.cells)} cells, all filled")
        image = finder.find(cells[columns["image"]], place)
        mask = masks.find(cells[columns["mask"]], place)
        named = _split(cells[split["split"]], place) if split else None
        pairs.append(MaskPair(image, mask, finder.name_of(image), named))
    return number_source(MaskPairs(pairs), None if classes is None else read_classes(classes))


def _split(cell: str, place: str) -> str | None:
    """Return the split that a cell names, "valid" or "fold 1"; raises InputError."""
    if not re.fullmatch(r"[\w-]*", cell):
        raise InputError(f"{place}: a split is named by letters and digits, got '{cell}'")
    require_storable(cell, f"{place}: split")
    return split_named(cell) or cell or None
