"""What the values in label files mean: the dataset's own ids, train ids 0..K-1, or colours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.color_codes import code_of, color_of, labels_of_codes
from sceneparse.data.datasets import encode_mask, spread
from sceneparse.data.decoding import decode
from sceneparse.data.labels import Labels, LabelTable
from sceneparse.data.reading import read_all, read_colors, read_labels
from sceneparse.errors import InputError, first_few

IDS = ("raw", "train")
# Files that are looked at to see what their values mean.
_LOOKED_AT = 24
_COLORED = {"RGB", "RGBA"}


@dataclass(frozen=True)
class Encoding:
    """How to read label files: `kind` is "raw", "train" or "colors"."""

    kind: str
    table: LabelTable

    @property
    def description(self) -> str:
        """Its name in reports."""
        names = {"raw": "ids of the dataset", "train": "train ids", "colors": "colours"}
        return names[self.kind]

    @cached_property
    def _values_of(self) -> LabelTable:
        return self.table.of_train_ids() if self.kind == "train" else self.table

    def read(self, path: Path) -> Labels:
        """Return the train ids (H, W) in a file; pixels of no class have the ignore index.

        Raises InputError for values that the table does not hold.
        """
        if self.kind == "colors":
            return _of_colors(path, self.table)
        return encode_mask(self._values_of, *read_labels(path), path)


def find_encoding(
    paths: Sequence[Path], table: LabelTable, ids: str | None, *, option: str
) -> Encoding:
    """Return how to read label files: as `ids` says, or by their names and values.

    Of two readings, the one that leaves fewer values without a class is taken. Raises InputError,
    which names `option`, if both leave as many, or none is possible.
    """
    shown = [paths[k] for k in spread(len(paths), _LOOKED_AT)]
    if any(map(_is_colored, shown)):
        if ids is not None:
            raise InputError(f"{shown[0]} is painted in colours, so {option} {ids} means nothing")
        return Encoding("colors", table)
    if ids is not None:
        return Encoding(ids, table)
    if all(path.stem.lower().endswith("trainids") for path in paths):
        return Encoding("train", table)
    values = {int(v) for found in read_all(_values_in, shown, "label files") for v in found}
    return Encoding(_kind_of(values, table, shown[0], option), table)


def _is_colored(path: Path) -> bool:
    with suppress(InputError):  # which is reported when the file is read
        return decode(path).image.mode in _COLORED
    return False


def _values_in(path: Path) -> NDArray[Any]:
    values, transparent = read_labels(path)
    return np.unique(values[~transparent])


def _kind_of(values: set[int], table: LabelTable, example: Path, option: str) -> str:
    readings = {
        kind: {label.raw_id: label.train_id for label in read_by.labels}
        for kind, read_by in zip(IDS, (table, table.of_train_ids()), strict=True)
    }
    possible = {kind: ids for kind, ids in readings.items() if values <= ids.keys()}
    if not possible:
        raw = readings["raw"]
        raise InputError(
            f"{example.parent}: label values that are no class: "
            f"{first_few(sorted(values - raw.keys()), 8)}; valid are the ids of the dataset "
            f"({min(raw)}..{max(raw)}) or train ids (0..{table.num_classes - 1} and "
            f"{table.ignore_index}); see --dataset and --classes"
        )
    meanings = {kind: [ids[value] for value in sorted(values)] for kind, ids in possible.items()}
    without = {kind: found.count(None) for kind, found in meanings.items()}
    fewest = [kind for kind in without if without[kind] == min(without.values())]
    if len(fewest) > 1 and meanings["raw"] != meanings["train"]:
        raise InputError(
            f"{example.parent}: the values {first_few(sorted(values), 8)} may be ids of the "
            f"dataset or train ids; say which with {option} raw or {option} train"
        )
    return fewest[0]


def _of_colors(path: Path, table: LabelTable) -> Labels:
    picture, transparent = read_colors(path)
    known = {code_of(label.color): label.train_id for label in reversed(table.labels)}
    ids = {code: table.ignore_index if k is None else k for code, k in known.items()}
    labels, foreign = labels_of_codes(picture, ids, transparent)
    if foreign:
        shown = first_few(str(color_of(code)).replace(" ", "") for code in foreign)
        raise InputError(
            f"{path}: {len(foreign)} colours of no class: {shown}; give the classes' colours in "
            "colors.txt beside classes.txt, or save label values"
        )
    labels[transparent] = table.ignore_index
    return labels.astype(table.dtype)
