"""Take in any folder or annotation file: recognise it, split its images, link them if needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sceneparse.auto.recognise import Known, recognise
from sceneparse.auto.sources import explained, format_of, require_content
from sceneparse.auto.splitting import split_items
from sceneparse.auto.validation import with_validation
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.formats.folders import CLASS_FILES, masks_without_table
from sceneparse.data.formats.shared.classes import read_classes
from sceneparse.data.formats.shared.folders import write_folders
from sceneparse.data.formats.shared.proposals import propose_table, table_text
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source, check_images, with_file_names
from sceneparse.data.labels import Color
from sceneparse.errors import InputError, first_few, reason_of
from sceneparse.files import exists
from sceneparse.runtime.progress import Progress

PROPOSAL = "classes_proposed.csv"


@dataclass(frozen=True)
class Intake:
    """Where the samples are, and what was done to find them.

    `dataset` is a name of DATASETS. `notes`: sentences to print and to put into the report.
    `classes`, `bit_depth`: as in the section data of a configuration.
    """

    dataset: str
    root: Path
    train_split: str
    val_split: str
    notes: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    bit_depth: int | None = None

    def open(self) -> tuple[SegmentationDataset, SegmentationDataset]:
        """Open the splits for training and validation; raises InputError."""
        train, val = (
            create_dataset(self.dataset, self.root, split, self.classes, bit_depth=self.bit_depth)
            for split in (self.train_split, self.val_split)
        )
        return train, val


def take_in(
    source: Path, output: Path, *, val: Path | None, classes: Path | None, seed: int = 0
) -> Intake:
    """Find the images and masks of a folder or annotation file, and what to validate on.

    What training can read stays where it is. Anything else becomes OUTPUT/data, in the folder
    layout with links to the images; without splits, `seed` decides about them. `val`: a folder
    for validation, then all of the source is for training. `classes`: as --classes of convert.
    Raises InputError with one line about what is wrong and what to do.
    """
    for folder in (source, val):
        if folder is not None:
            require_content(folder)
    known = recognise(source)
    if known is not None and classes is not None and known.dataset != "folder":
        raise InputError(
            f"'{source}' is {known.reason}; it has its own classes, so leave out --classes"
        )
    if known is not None and known.val_split and val is None and classes is None:
        return _in_place(known)
    target = output / "data"
    _require_free(target, [source, *([val] if val else [])])
    notes: list[str] = []
    with explained(source):
        found, table = _read(source, known if classes is None else None, classes, output, notes)
        check_images(found.items)
        if val is None:
            split_of = _split(found.items, len(found.classes), seed, notes)
        else:
            found, split_of = with_validation(found, source, val, table, output, notes)
        named = with_file_names(found, split_of, target)
        notes += [_sentence(note) for note in named.notes[len(found.notes) :]]
        how = _write(named, target, split_of)
    skipped = [f"Skipped: {line}." for line in found.skipped.lines()]
    notes.append(f"The dataset is {target}: {how}, masks are written.")
    return Intake("folder", target, "train", "val", (*notes, *skipped))


def _in_place(known: Known) -> Intake:
    """Return the intake of a dataset that stays where it is."""
    notes = [f"The data are used in place: {known.reason}."]
    if known.test_splits:
        notes.append(_left_alone(first_few(known.test_splits)))
    assert known.val_split is not None
    return Intake(known.dataset, known.root, known.train_split, known.val_split, tuple(notes))


def _left_alone(what: str) -> str:
    return f"Left alone, neither trained on nor looked at: {what}."


def _require_free(target: Path, sources: Sequence[Path]) -> None:
    """Raise InputError if the target exists, or if a later try would read it as images."""
    if exists(target):
        raise InputError(
            f"'{target}' exists from an earlier try; remove {target.parent}, or choose another "
            "folder with --output"
        )
    for source in sources:
        if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
            raise InputError(
                f"the output '{target.parent}' lies in '{source}', whose images would be found "
                "twice; choose a folder outside with --output"
            )


def _read(
    source: Path, known: Known | None, classes: Path | None, output: Path, notes: list[str]
) -> tuple[Source, Path | None]:
    """Read all images and masks, and return them with the table of classes used, if any."""
    if known is not None:
        notes.append(f"The data are {known.reason}.")
        if known.test_splits:
            notes.append(_left_alone(first_few(known.test_splits)))
        return _source_of(known), None
    kind, why, options = format_of(source)
    notes.append(f"The data are of format {kind.name}: {why}.")
    if options:
        classes = _write_table(_black_and_white(source, classes), output)
        notes.append(
            "Masks are black and white with smoothed edges or JPEG noise: each pixel is taken as "
            f"the nearer of both. Save masks as PNG to be exact; the names are those of {classes}."
        )
    elif kind.name == "folders" and classes is None:
        classes = _propose(source, output, notes)
    found = kind.read(source, options if classes is None else {**options, "classes": classes})
    notes += map(_sentence, found.notes)
    return found, classes


def _black_and_white(source: Path, file: Path | None) -> dict[Color, str]:
    """Return the classes of black and white: those of a file, or of one in the source."""
    file = file or next((source / n for n in CLASS_FILES if (source / n).is_file()), None)
    names = ["background", "foreground"] if file is None else read_classes(file).names
    if len(names) != 2:
        raise InputError(
            f"{file} names {len(names)} classes, but the masks are black and white; name two"
        )
    return {(0, 0, 0): names[0], (255, 255, 255): names[1]}


def _source_of(known: Known) -> Source:
    """Return the images of a dataset that training can read, with the splits it has."""
    items: list[Item] = []
    for split in known.splits:
        dataset = known.open(split)
        kind = "train" if split == known.train_split else "val"
        items += [
            Item(pair.image, pair.name, partial(dataset.mask, k), kind)
            for k, pair in enumerate(dataset.pairs)
        ]
    return Source(dataset.table.names, items, Skipped(), dataset.table.colors)


def _propose(source: Path, output: Path, notes: list[str]) -> Path | None:
    """Write a table for masks whose colours have no names; None if none is needed or possible."""
    masks = masks_without_table(source)
    proposed = propose_table(masks) if masks else None
    if proposed is None:
        return None
    names, why = proposed
    path = _write_table(names, output)
    shown = ", ".join("{} ({},{},{})".format(name, *color) for color, name in names.items())
    notes.append(
        f"The masks hold {len(names)} colours without a table; proposed classes: {shown}; {why}. "
        f"To change names, edit {path} and give it with --classes."
    )
    if unused := [name for name in CLASS_FILES if (source / name).is_file()]:
        notes.append(f"{unused[0]} gives no colours, so its names could not be used.")
    return path


def _write_table(names: Mapping[Color, str], output: Path) -> Path:
    path = output / PROPOSAL
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(table_text(names), "utf-8")
    except OSError as error:
        raise InputError(f"cannot write '{path}': {reason_of(error)}") from error
    return path


def _split(
    items: Sequence[Item], num_classes: int, seed: int, notes: list[str]
) -> Mapping[Path, str]:
    """Return the split of each image: that of the source, or one made by `seed`."""
    train, val = _own_splits(items, notes)
    if val:
        return {i.image: "train" for i in train} | {i.image: "val" for i in val}
    split_of, made = split_items(train, num_classes, seed)
    notes += made
    return split_of


def _own_splits(items: Sequence[Item], notes: list[str]) -> tuple[list[Item], list[Item]]:
    """Return the images for training and those for validation that the source names.

    Images of a test split are left alone, and those of no split if others are for training.
    """
    by_split: dict[str | None, list[Item]] = {}
    for item in items:
        by_split.setdefault(item.split, []).append(item)
    if len(by_split) == 1:
        return list(items), []
    val, test = by_split.pop("val", []), by_split.pop("test", [])
    unnamed = by_split.pop(None, [])
    train = [item for group in by_split.values() for item in group]
    if not train:
        train, unnamed = unnamed, []
    if not train:
        raise InputError(
            f"the splits of the source are val ({len(val)} images) and test ({len(test)}), none "
            "to train on; give the folder of the training images, and the other with --val"
        )
    left = [(test, "images of the test split"), (unnamed, "images of no split")]
    notes += [_left_alone(f"{len(group)} {what}") for group, what in left if group]
    return train, val


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def _write(source: Source, target: Path, split_of: Mapping[Path, str]) -> str:
    """Write the dataset; return how its images got there: linked, or copied."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Progress("write", len(split_of), "images") as progress:
            written = write_folders(
                source, target, split_of, link=True, after_item=progress.advance
            )
    except OSError as error:
        raise InputError(f"cannot write '{target}': {reason_of(error)}") from error
    return written.description
