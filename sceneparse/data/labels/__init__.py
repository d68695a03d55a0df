"""Label tables: one row per raw label value with its train id, name and colour.

A mask file holds raw ids; the network sees train ids 0..K-1 and one ignore id.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels.palette import Color as Color
from sceneparse.data.labels.palette import palette as palette
from sceneparse.data.labels.palette import palette_color as palette_color
from sceneparse.errors import InputError, first_few, one_line
from sceneparse.files import read_text
from sceneparse.runtime.shell import command_line

Labels = NDArray[np.unsignedinteger[Any]]
IGNORE_8_BIT, IGNORE_16_BIT = 255, 65535
_MAX_NAME_LENGTH = 200
_MAX_TABLE_SIZE = 2**24


def require_name(name: str) -> None:
    """Raise InputError for a class name that tables, pictures and terminals cannot show."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_LENGTH or name != one_line(name):
        raise InputError(
            f"a class needs a name of 1..{_MAX_NAME_LENGTH} printable characters, got '{name}'"
        )


def ignore_index_for(num_classes: int) -> int:
    """Return the train id that is never counted: 255, or 65535 if 255 is a class."""
    return IGNORE_8_BIT if num_classes <= IGNORE_8_BIT else IGNORE_16_BIT


@dataclass(frozen=True)
class Label:
    """One raw label value; `train_id` None: never trained on, never counted."""

    raw_id: int
    train_id: int | None
    name: str
    color: Color
    category: str | None = None


@dataclass(frozen=True)
class LabelTable:
    """All labels of a dataset. Train ids must be 0..K-1 without gaps."""

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        train_ids = sorted({label.train_id for label in self.labels if label.train_id is not None})
        if len(train_ids) < 2 or train_ids != list(range(len(train_ids))):
            raise InputError(
                f"a label table needs train ids 0..K-1 without gaps and K >= 2, got {train_ids}"
            )
        for label in self.labels:
            require_name(label.name)
        raw_ids = [label.raw_id for label in self.labels]
        if len(set(raw_ids)) != len(raw_ids) or not 0 <= min(raw_ids) <= max(raw_ids) <= 65535:
            raise InputError("a label table needs distinct raw ids in 0..65535")

    @cached_property
    def classes(self) -> tuple[Label, ...]:
        """The first label of every train id, in the order of train ids."""
        first: dict[int, Label] = {}
        for label in self.labels:
            if label.train_id is not None:
                first.setdefault(label.train_id, label)
        return tuple(first[train_id] for train_id in range(len(first)))

    @property
    def num_classes(self) -> int:
        """Number of train ids, K."""
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """Class names by train id."""
        return [label.name for label in self.classes]

    @property
    def colors(self) -> list[Color]:
        """RGB colours 0..255 by train id."""
        return [label.color for label in self.classes]

    @property
    def categories(self) -> list[str] | None:
        """Category of each class by train id; None if the dataset has no categories."""
        named = [label.category for label in self.classes if label.category is not None]
        return named if len(named) == self.num_classes else None

    @property
    def ignore_index(self) -> int:
        """The train id of pixels that are never counted."""
        return ignore_index_for(self.num_classes)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The type of train ids: uint8, or uint16 for over 255 classes."""
        return np.dtype(np.uint8 if self.ignore_index == IGNORE_8_BIT else np.uint16)

    def with_palette(self, name: str) -> LabelTable:
        """Return the same table in its own colours ("dataset"), or in safe ones.

        Safe colours ("safe") are told apart by colour-blind eyes.
        """
        if name == "dataset":
            return self
        colors = palette(self.names)
        rows = (
            label if label.train_id is None else replace(label, color=colors[label.train_id])
            for label in self.labels
        )
        return LabelTable(tuple(rows))

    def of_train_ids(self) -> LabelTable:
        """Return the table for masks that already hold this table's train ids."""
        rows = [replace(label, raw_id=number) for number, label in enumerate(self.classes)]
        return LabelTable((*rows, Label(self.ignore_index, None, "ignore", (0, 0, 0))))

    @cached_property
    def _train_id_of(self) -> NDArray[np.int32]:
        lookup = np.full(65536, -1, dtype=np.int32)
        for label in self.labels:
            lookup[label.raw_id] = self.ignore_index if label.train_id is None else label.train_id
        return lookup

    def encode(self, raw: Labels) -> Labels:
        """Map raw ids (H, W) to train ids, uint8 (uint16 for over 255 classes).

        Raises InputError listing the values that the table does not hold.
        """
        train_ids = self._train_id_of[raw]
        if train_ids.min(initial=0) < 0:
            values, counts = np.unique(raw[train_ids < 0], return_counts=True)
            found = [f"{value} ({count} px)" for value, count in zip(values, counts, strict=True)]
            valid = [label.raw_id for label in self.labels]
            raise InputError(
                f"label values outside the table: {first_few(found)}; valid are {len(valid)} "
                f"values in {min(valid)}..{max(valid)}{self._mixed_up(set(values.tolist()))}"
            )
        return train_ids.astype(self.dtype)

    def _mixed_up(self, foreign: set[int]) -> str:
        """Return a hint if the values look like Cityscapes' labelIds instead of trainIds."""
        official = load_label_table("cityscapes")
        label_ids = {label.raw_id for label in official.labels}
        if self.num_classes != official.num_classes or self == official or foreign - label_ids:
            return ""
        return (
            "; these look like Cityscapes' labelIds, but trainIds are expected: set "
            "data.dataset: cityscapes, or use the *_labelTrainIds.png"
        )

    def decode(self, train_ids: Labels) -> Labels:
        """Map train ids (H, W) of predictions back to raw ids, for submission files.

        Ignored pixels become 255, or 65535 if 255 is the raw id of a class or there are larger ids.
        """
        raw_ids = np.array([label.raw_id for label in self.classes])
        # The table decides, so that all files of a folder have the same depth.
        wide = raw_ids.max() > 255
        ignored = train_ids == self.ignore_index
        if ignored.any():
            wide |= 255 in raw_ids
            train_ids = np.where(ignored, self.num_classes, train_ids)
        raw_ids = np.append(raw_ids, IGNORE_16_BIT if wide else IGNORE_8_BIT)
        return raw_ids.astype(np.uint16 if wide else np.uint8)[train_ids]


def count_labels(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return the pixels per class (K,); other labels are not counted."""
    counts = np.zeros(num_classes, dtype=np.int64)
    # In bands, because counting needs 8 bytes per pixel.
    for top in range(0, len(labels), 256):
        band = labels[top : top + 256]
        counts += np.bincount(band.ravel(), minlength=num_classes)[:num_classes]
    return counts


def load_label_table(name: str) -> LabelTable:
    """Read one of the CSV tables beside this file, e.g. "cityscapes"."""
    text = (resources.files(__package__) / f"{name}.csv").read_text(encoding="utf-8")
    return LabelTable(
        tuple(
            Label(
                raw_id=int(row["raw_id"]),
                train_id=None if row["train_id"] == "ignore" else int(row["train_id"]),
                name=row["name"],
                color=(int(row["r"]), int(row["g"]), int(row["b"])),
                category=row.get("category"),
            )
            for row in csv.DictReader(text.splitlines())
        )
    )


def identity_table(names: Sequence[str], colors: Sequence[Color]) -> LabelTable:
    """Return the table for masks that already hold train ids: 0..K-1, and the ignore id."""
    rows = enumerate(zip(names, colors, strict=True))
    return LabelTable(tuple(Label(k, k, *row) for k, row in rows)).of_train_ids()


def folder_table(root: Path, classes: Sequence[str] | None) -> LabelTable:
    """Return the table of a folder dataset: given names, or ROOT/classes.txt (line k names id k).

    Colours come from ROOT/colors.txt ("r g b" per line) or, without it, from `palette`.
    """
    names = list(classes) if classes is not None else _lines(root / "classes.txt")
    if len(names) < 2:
        raise InputError(f"{root}: a dataset needs at least 2 classes, got {names}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"{root}: class names occur twice: {first_few(twice)}; give each class its own name, "
            "because scores and shares are stored by name"
        )
    color_file = root / "colors.txt"
    if not color_file.is_file():
        return identity_table(names, palette(names))
    colors = [_color(line, color_file) for line in _lines(color_file)]
    if len(colors) != len(names):
        raise InputError(
            f"{color_file}: {len(colors)} colours for {len(names)} classes; give a line "
            "'red green blue' per class, or delete the file"
        )
    return identity_table(names, colors)


def require_own_classes(root: Path, dataset: str, table: LabelTable) -> None:
    """Raise InputError if ROOT/classes.txt names other classes than the table of a public dataset.

    Then its masks would be read by a table that means other things. Capitals, blanks and synonyms
    (after a comma or semicolon) may differ, and the names of ignored labels may be listed too.
    """
    path = root / "classes.txt"
    if not path.is_file():
        return
    named, all_labels = _lines(path), sorted(table.labels, key=lambda label: label.raw_id)
    known = table.names, [label.name for label in all_labels]
    if list(map(_plain, named)) not in [list(map(_plain, names)) for names in known]:
        own = [re.split("[,;]", name)[0] for name in table.names]
        raise InputError(
            f"{path} names {len(named)} classes ({first_few(named, 3)}), but the dataset "
            f"'{dataset}' has {table.num_classes} of its own ({first_few(own, 3)}): set "
            "data.dataset=folder to use those of classes.txt (check, evaluate: --dataset folder), "
            f"or remove classes.txt if these are the masks of {dataset}"
        )


def _plain(name: str) -> str:
    return re.sub(r"\W|_", "", re.split("[,;]", name)[0]).casefold()


def _lines(path: Path) -> list[str]:
    if not path.exists():
        convert = command_line(["sceneparse", "convert", str(path.parent), "NEW_FOLDER"])
        raise InputError(
            f"{path} is missing: write one class name per line (line k names label value k), "
            f"or give data.classes; without splits, or with masks of 0/255 or colours, make a "
            f"dataset of it: {convert}"
        )
    lines = [line.strip() for line in read_text(path, _MAX_TABLE_SIZE).rstrip().splitlines()]
    if "" in lines:
        raise InputError(f"{path}, line {lines.index('') + 1}: empty; line k stands for label k")
    return lines


def _color(line: str, source: Path) -> Color:
    parts = line.replace(",", " ").split()
    if len(parts) != 3 or not all(part.isdecimal() and int(part) <= 255 for part in parts):
        raise InputError(f"{source}: expected 'r g b' with values 0..255, got '{line}'")
    return int(parts[0]), int(parts[1]), int(parts[2])
