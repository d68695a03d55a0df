"""Roboflow's "Semantic Segmentation Masks": NAME.jpg, NAME_mask.png and _classes.csv per split."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from sceneparse.data.formats.shared.classes import choose_classes
from sceneparse.data.formats.shared.layouts import find_pairs
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.formats.shared.splits import split_named
from sceneparse.data.labels import Labels
from sceneparse.data.reading import read_mask
from sceneparse.data.tables import find_columns, read_rows
from sceneparse.errors import InputError, first_few

_FILE = "_classes.csv"
_COLUMNS = {"pixel value": ("value", "pixel"), "class": ("name",)}


def recognise(source: Path) -> str | None:
    """Recognise _classes.csv with the columns Pixel Value and Class, here or in split folders."""
    for path in _tables(source):
        try:
            rows = read_rows(path)
            found = find_columns(rows[0].cells, _COLUMNS, path) if rows else None
        except InputError:
            return None
        return f"{path.name} lists pixel values and classes" if found else None
    return None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read the folders with _classes.csv; train, valid and test are splits."""
    tables = _tables(source)
    if not tables:
        raise InputError(f"'{source}' and its folders hold no {_FILE}")
    names = {path: _read_names(path) for path in tables}
    # In the order of their values.
    labels = [name for table in names.values() for _, name in sorted(table.items())]
    chosen = choose_classes(labels, classes, background=False)
    items, skipped = [], Skipped()
    for path, name_of in names.items():
        index_of = {value: chosen.index(name) for value, name in name_of.items()}
        found = find_pairs(path.parent, images)
        skipped.update(found.skipped)
        split = None if path.parent == source else split_named(path.parent.name)
        draw = partial(_draw, index_of, chosen.ignore_index)
        items += [Item(p.image, p.name, partial(draw, p.mask), split) for p in found.pairs]
    return Source(chosen.names, items, skipped, chosen.colors)


def _tables(source: Path) -> list[Path]:
    found = [*source.glob(_FILE), *source.glob(f"*/{_FILE}")] if source.is_dir() else []
    return sorted(filter(Path.is_file, found))


def _read_names(path: Path) -> dict[int, str]:
    header, *rows = read_rows(path)
    columns = find_columns(header.cells, _COLUMNS, path)
    if columns is None:
        found = ", ".join(header.cells)
        raise InputError(f"{path}: expected the columns Pixel Value,Class, found {found}")
    value, name = columns.values()
    names = {}
    for line, cells in rows:
        if len(cells) != len(header.cells) or not cells[value].isdecimal():
            raise InputError(f"{path}, line {line}: expected a value and a class, got {cells}")
        names[int(cells[value])] = cells[name]
    return names


def _draw(index_of: Mapping[int, int], ignore: int, path: Path) -> Labels:
    raw = read_mask(path)
    if unknown := sorted(set(np.unique(raw).tolist()) - index_of.keys()):
        raise InputError(f"{path}: values {first_few(unknown)} are not in {_FILE}; add their lines")
    table = np.full(max(index_of) + 1, ignore, np.uint16)
    for value, index in index_of.items():
        table[value] = index
    return np.asarray(table[raw])
