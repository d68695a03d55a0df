"""A table (CSV, TSV) that lists images and their masks of class numbers."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np

from sceneparse.data.formats.shared.classes import read_classes
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.pairing import relative_name
from sceneparse.data.reading import read_mask
from sceneparse.errors import InputError
from sceneparse.files import inside, read_text

_SUFFIXES = {".csv", ".tsv", ".txt", ".lst"}


def recognise(source: Path) -> str | None:
    """Recognise a table whose first line names the columns image and mask."""
    if source.suffix.lower() not in _SUFFIXES or not source.is_file():
        return None
    head = read_text(source).split("\n", 1)[0].lower()
    return "its columns are image and mask" if "image" in head and "mask" in head else None


def read(source: Path, skipped: Skipped, *, classes: Path | None = None) -> Source:
    """Read the columns image,mask (paths relative to the table); masks hold 0..K-1 and 255."""
    rows = list(csv.DictReader(read_text(source).splitlines()))
    if not rows or any(not row.get(column) for row in rows for column in ("image", "mask")):
        raise InputError(f"{source}: expected the columns image,mask, all filled")
    folder = source.parent
    files = [[inside(folder, row[column], source) for column in ("image", "mask")] for row in rows]
    items = [
        Item(image, relative_name(folder, image), partial(read_mask, mask)) for image, mask in files
    ]
    if classes is not None:
        named = read_classes(classes)
        return Source(named.names, items, skipped, named.colors)
    masks = (item.mask() for item in items)
    largest = [int(mask[mask != np.iinfo(mask.dtype).max].max(initial=0)) for mask in masks]
    return Source([f"class_{k}" for k in range(max([1, *largest]) + 1)], items, skipped)
