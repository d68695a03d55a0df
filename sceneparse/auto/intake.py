"""Take in any folder or annotation file: recognise it, split its images, link them if needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sceneparse.auto.recognise import Known, recognise
from sceneparse.auto.validation import with_validation
from sceneparse.data.checks.duplicates import fingerprints_of
from sceneparse.data.checks.splits import SplitPlan, natural_order, plan_splits
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.formats import find_format
from sceneparse.data.formats.folders import masks_without_table
from sceneparse.data.formats.folders import recognise as recognise_pairs
from sceneparse.data.formats.shared.folders import write_folders
from sceneparse.data.formats.shared.proposals import propose_table, table_text
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source, check_images, distinctly_named
from sceneparse.data.pairing import find_images, is_hidden
from sceneparse.errors import InputError, first_few, reason_of
from sceneparse.files import exists
from sceneparse.runtime.progress import Progress

# Validation gets a fifth, but at least _WANTED images while that is no more than a third; scores
# on _ENOUGH images are exact enough.
_SHARE, _LARGEST_SHARE, _WANTED, _ENOUGH = 0.2, 1 / 3, 10, 500
PROPOSAL = "classes_proposed.csv"
# Options that messages of the formats name, but that only `convert` has.
_CONVERT_OPTIONS = re.compile(r"--(?:as|images|split|near-duplicates|unknown-colors)\b")


@dataclass(frozen=True)
class Intake:
    """Where the samples are, and what was done to find them.

    `dataset` is a name of DATASETS. `notes`: sentences to print and to put into the report.
    """

    dataset: str
    root: Path
    train_split: str
    val_split: str
    notes: tuple[str, ...]

    def open(self) -> tuple[SegmentationDataset, SegmentationDataset]:
        """Open the splits for training and validation; raises InputError."""
        train, val = (
            create_dataset(self.dataset, self.root, split)
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
            _require_content(folder)
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
    with _explained(source):
        found, table = _read(source, known if classes is None else None, classes, output, notes)
        check_images(found.items)
        if val is None:
            plan = _split(found.items, seed, notes)
        else:
            found, plan = with_validation(found, source, val, table, notes)
        found = replace(found, items=distinctly_named(found.items, plan))
        _write(found, target, plan)
    skipped = [f"Skipped: {line}." for line in found.skipped.lines()]
    notes.append(f"The dataset is {target}: images are linked, masks are written.")
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


def _require_content(source: Path) -> None:
    """Raise InputError for a path that does not exist, and a folder without any file."""
    if not exists(source):
        raise InputError(
            f"'{source}' does not exist; give the folder of images and masks, or the annotation "
            "file"
        )
    if source.is_dir() and not any(path.is_file() for path in source.rglob("*")):
        raise InputError(f"'{source}' is empty; give the folder that holds images and masks")


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


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    """Say of errors that name options of convert how to use them."""
    try:
        yield
    except InputError as error:
        options = dict.fromkeys(_CONVERT_OPTIONS.findall(str(error)))
        if not options:
            raise
        are = "are options" if len(options) > 1 else "is an option"
        raise InputError(
            f"{error} ({' and '.join(options)} {are} of sceneparse convert {source} NEW_FOLDER; "
            "give NEW_FOLDER to sceneparse auto)"
        ) from error


def _read(
    source: Path, known: Known | None, classes: Path | None, output: Path, notes: list[str]
) -> tuple[Source, Path | None]:
    """Read all images and masks, and return them with the table of classes used, if any."""
    if known is not None:
        notes.append(f"The data are {known.reason}.")
        if known.test_splits:
            notes.append(_left_alone(first_few(known.test_splits)))
        return _source_of(known), None
    if source.is_file():
        _require_no_image(source)
    elif _holds_images_only(source):
        raise InputError(
            f"'{source}' holds images but no masks were found; put masks of the same names into a "
            "folder 'masks' beside 'images', or give the annotation file that belongs to them"
        )
    kind, why = find_format(source)
    notes.append(f"The data are of format {kind.name}: {why}.")
    if classes is None and kind.name == "folders":
        classes = _propose(source, output, notes)
    found = kind.read(source, {} if classes is None else {"classes": classes})
    notes += [f"{note[:1].upper()}{note[1:]}." for note in found.notes]
    return found, classes


def _require_no_image(source: Path) -> None:
    if source.suffix.lower() in {".jpg", ".jpeg", ".png"}:
        raise InputError(f"'{source}' is one image; give the folder of images and masks")


def _holds_images_only(source: Path) -> bool:
    """Return whether a folder holds nothing but images, in one folder and without masks."""
    files = [path for path in source.rglob("*") if path.is_file() and not is_hidden(path.name)]
    images = find_images(source)[0]
    in_one = len({path.parent for path in images}) == 1
    return in_one and len(images) == len(files) and recognise_pairs(source) is None


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
    path = output / PROPOSAL
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(table_text(names), "utf-8")
    except OSError as error:
        raise InputError(f"cannot write '{path}': {reason_of(error)}") from error
    shown = ", ".join("{} ({},{},{})".format(name, *color) for color, name in names.items())
    notes.append(
        f"The masks hold {len(names)} colours without a table; proposed classes: {shown}; {why}. "
        f"To change names, edit {path} and give it with --classes."
    )
    return path


def _split(items: Sequence[Item], seed: int, notes: list[str]) -> dict[Path, str]:
    """Return the split of each image: that of the source, or one made by `seed`."""
    train, val = _own_splits(items, notes)
    if val:
        return {i.image: "train" for i in train} | {i.image: "val" for i in val}
    if len(train) < 2:
        raise InputError(
            f"{len(train)} image with a mask: at least 2 are needed, one to train on and one to "
            "validate on; add images, or give a folder with --val"
        )
    images = [item.image for item in train]
    progress = Progress(len(images), "images compared")
    prints = fingerprints_of(images, lambda: progress.advance(1))
    progress.close()
    share = val_share(len(images))
    plan = plan_splits(
        images, prints, {"train": 1 - share, "val": share}, seed, "together", videos=True
    )
    notes += _describe(plan, images, seed)
    return plan.split_of


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


def val_share(count: int) -> float:
    """Return the share of `count` images that validation gets."""
    wanted = min(max(_SHARE * count, _WANTED), _LARGEST_SHARE * count, _ENOUGH)
    return max(wanted, 1) / count


def _describe(plan: SplitPlan, images: Sequence[Path], seed: int) -> list[str]:
    """Return sentences about a split that was made."""
    val = sum(split == "val" for split in plan.split_of.values())
    notes = [
        f"No split was given: {len(images) - val} images are for training and {val} for "
        f"validation (a fifth, but at least {_WANTED} if that is no more than a third, and at "
        f"most {_ENOUGH}; seed {seed})."
    ]
    if plan.together:
        notes.append(
            f"{sum(map(len, plan.together))} images look like another one or follow each other in "
            f"a video or a stack; they form {len(plan.together)} groups, which are not mixed."
        )
    for group in plan.cut:
        in_time = sorted(group, key=lambda image: natural_order(image.as_posix()))
        block = [image for image in in_time if plan.split_of[image] == "val"]
        notes.append(
            f"One group of {len(group)} was too large for one split and is cut in the order of its "
            f"names: {block[0].name} to {block[-1].name} ({len(block)}) are for validation. Scores "
            "on them promise too much for new scenes; better give other scenes with --val."
        )
    return notes


def _write(source: Source, target: Path, split_of: Mapping[Path, str]) -> None:
    progress = Progress(len(split_of), "images written")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_folders(source, target, split_of, link=True, after_item=lambda: progress.advance(1))
    except OSError as error:
        raise InputError(f"cannot write '{target}': {reason_of(error)}") from error
    finally:
        progress.close()
