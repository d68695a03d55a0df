"""Join training images and a folder of validation images of the same classes."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.auto.sources import explained, format_of
from sceneparse.data.formats.shared.source import Item, Source, check_images
from sceneparse.data.labels import Labels
from sceneparse.errors import InputError, first_few, reason_of
from sceneparse.files import sha256_of

# Names that readers give to classes without names.
_NUMBERED = re.compile(r"class_\d+|background|foreground")


def with_validation(
    train: Source,
    source: Path,
    val: Path,
    table: Path | None,
    output: Path,
    notes: list[str],
) -> tuple[Source, dict[Path, str]]:
    """Return all images, and the split of each: train, or val for those in the folder `val`.

    `table`: the table of classes by which the training images were read. `output`: a folder for
    files that are needed for a moment. Images of the source that
    lie in `val` are for validation only. Raises InputError for other classes, and for images that
    are in both.
    """
    with explained(val):
        held_out = _read(val, table, train, output)
        check_images(held_out.items)
    if splits := sorted({item.split for item in held_out.items if item.split}):
        raise InputError(
            f"'{val}' has the splits {first_few(splits)}; give the folder of one of them with --val"
        )
    label_of = _label_map(held_out, train)
    inside = val.resolve()
    kept = [i for i in train.items if not i.image.resolve().is_relative_to(inside)]
    if not kept:
        raise InputError(f"no image of '{source}' is outside of --val '{val}'; none to train on")
    if tests := [item for item in kept if item.split == "test"]:
        kept = [item for item in kept if item.split != "test"]
        notes.append(f"Left alone, neither trained on nor looked at: {len(tests)} test images.")
    _refuse_shared(kept, held_out.items, val)
    mapped = [
        replace(item, draw=partial(_mapped, item, label_of), split="val") for item in held_out.items
    ]
    notes.append(
        f"All {len(kept)} images of {source} are for training, the {len(mapped)} of {val} for "
        "validation."
    )
    train.skipped.update(held_out.skipped)
    split_of = {i.image: "train" for i in kept} | {i.image: "val" for i in mapped}
    return replace(train, items=[*kept, *mapped]), split_of


def _read(val: Path, table: Path | None, train: Source, output: Path) -> Source:
    """Read the folder by its own names of classes, or else by those of the training images."""
    kind, _, options = format_of(val)
    with _scratch(output) as folder:
        names = folder / "classes.csv"
        names.write_text("".join(f"{line}\n" for line in _lines(train)), "utf-8")
        problem = ""
        for file in dict.fromkeys((table, names)):
            try:
                found = kind.read(val, options if file is None else {**options, "classes": file})
            except InputError as error:
                problem = str(error).replace(str(names), "the training images")
                continue
            if {*found.classes} <= {*train.classes}:
                return found
            foreign = [name for name in found.classes if name not in train.classes]
            problem = f"it has {first_few(foreign)}, the training images {first_few(train.classes)}"
            if not all(map(_NUMBERED.fullmatch, foreign)):
                break  # of other names, which those of the training images must not replace
    raise InputError(
        f"'{val}' has other classes than the training images: {problem}; name the classes of both "
        "alike with --classes FILE"
    )


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """Give a folder that is removed afterwards; raises InputError if it cannot be made."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=output)
    except OSError as error:
        raise InputError(f"cannot write '{output}': {reason_of(error)}") from error
    with folder as name:
        yield Path(name)


def _lines(train: Source) -> list[str]:
    """Return a table of the classes, with their colours if they have any."""
    if train.colors is None:
        return [*train.classes]
    rows = zip(train.classes, train.colors, strict=True)
    return ["{},{},{},{}".format(name, *color) for name, color in rows]


def _label_map(held_out: Source, train: Source) -> NDArray[np.int32]:
    """Return the training label of every label of the held-out images, -1 for values of none."""
    label_of = np.full(2**16, -1, np.int32)
    label_of[held_out.ignore_index] = train.ignore_index
    for label, name in enumerate(held_out.classes):
        label_of[label] = train.classes.index(name)
    return label_of


def _mapped(item: Item, label_of: NDArray[np.int32]) -> Labels:
    mask = item.mask()
    labels = label_of[mask]
    if labels.min(initial=0) < 0:
        values = first_few(np.unique(mask[labels < 0]).tolist())
        raise InputError(
            f"{item.image}: its mask holds {values}, which are no classes of the training images"
        )
    return labels.astype(np.uint16)


def _refuse_shared(train: Sequence[Item], held_out: Sequence[Item], val: Path) -> None:
    """Raise InputError if an image of the training images is in the held-out ones too."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for item in train:
        by_size[item.image.stat().st_size].append(item.image)
    shared = []
    for item in held_out:
        same_size = by_size.get(item.image.stat().st_size, [])
        if same_size and sha256_of(item.image) in map(sha256_of, same_size):
            shared.append(item.image)
    if shared:
        raise InputError(
            f"{len(shared)} images of --val '{val}' are training images too: {first_few(shared)}; "
            "remove them from one of both"
        )
