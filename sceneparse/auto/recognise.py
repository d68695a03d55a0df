"""Recognise datasets that training reads as they are: known ones, and the folder layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sceneparse.data.datasets import SegmentationDataset, create_dataset, spread
from sceneparse.data.formats.shared.splits import split_named
from sceneparse.data.labels import load_label_table, require_own_classes
from sceneparse.data.tables import TABLE_SUFFIXES
from sceneparse.errors import InputError, first_few

# Masks that are looked at to see whether they hold labels.
_LOOKED_AT = 8
_CAMVID_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")


@dataclass(frozen=True)
class Known:
    """A dataset that training can read: its name in DATASETS, root, splits, and how it is known.

    `val_split` None: it has no split for validation. `test_splits`: splits that stay unread.
    """

    dataset: str
    root: Path
    train_split: str
    val_split: str | None
    test_splits: tuple[str, ...]
    reason: str

    def open(self, split: str) -> SegmentationDataset:
        """Open a split; raises InputError if it is incomplete."""
        return create_dataset(self.dataset, self.root, split)

    @property
    def splits(self) -> list[str]:
        """The splits for training and validation."""
        return [self.train_split] + ([self.val_split] if self.val_split else [])


def recognise(source: Path) -> Known | None:
    """Return the dataset in a folder if training reads it as it is; otherwise None.

    Raises InputError for a known public dataset with missing files.
    """
    if not source.is_dir():
        return None
    for find in (_cityscapes, _ade20k, _pascal_context, _segnet_camvid):
        if known := find(source):
            for split in known.splits:
                known.open(split)
            return known
    return next((k for find in (_folders, _lists) if (k := find(source)) and _is_readable(k)), None)


def _cityscapes(source: Path) -> Known | None:
    images, masks = source / "leftImg8bit", source / "gtFine"
    if not ((images / "train").is_dir() and (masks / "train").is_dir()):
        return None
    val = "val" if (images / "val").is_dir() else None
    tests = ("test",) if (images / "test").is_dir() else ()
    return Known("cityscapes", source, "train", val, tests, "Cityscapes: leftImg8bit and gtFine")


def _ade20k(source: Path) -> Known | None:
    inner = source / "ADEChallengeData2016"
    root = inner if inner.is_dir() else source
    if not all((root / kind / "training").is_dir() for kind in ("images", "annotations")):
        return None
    if not any((root / "annotations" / "training").glob("ADE_*.png")):
        return None
    val = "val" if (root / "images" / "validation").is_dir() else None
    return Known("ade20k", source, "train", val, (), "ADE20K: ADE_* in images/training")


def _pascal_context(source: Path) -> Known | None:
    candidates = (source / "VOCdevkit/VOC2010", source / "VOC2010", source)
    lists = "ImageSets/SegmentationContext"
    root = next((c for c in candidates if (c / "SegmentationClassContext").is_dir()), None)
    if root is None or not (root / lists / "train.txt").is_file():
        return None
    val = "val" if (root / lists / "val.txt").is_file() else None
    reason = "Pascal Context: SegmentationClassContext; 59 classes, without the background"
    return Known("pascal_context_59", source, "train", val, (), reason)


def _segnet_camvid(source: Path) -> Known | None:
    names = (path.name for path in (source / "trainannot").glob("*.png"))
    if not any(map(_CAMVID_FRAME.match, names)):
        return None
    val = "val" if (source / "valannot").is_dir() else None
    tests = ("test",) if (source / "test").is_dir() else ()
    return Known("camvid", source, "train", val, tests, "CamVid: its frames in train, trainannot")


def _folders(source: Path) -> Known | None:
    """Return the folder layout: SPLIT/images and SPLIT/labels, or images/SPLIT and labels/SPLIT."""
    names = {path.parent.name for path in source.glob("*/images") if path.is_dir()}
    names |= {path.name for path in (source / "images").glob("*") if path.is_dir()}
    kinds = _by_kind((split_named(name), name) for name in sorted(names))
    for kind in ("train", "val"):
        if len(found := kinds.get(kind, [])) > 1:
            raise InputError(
                f"'{source}' has {len(found)} splits for {kind}: {first_few(found)}; leave one"
            )
    return _of_splits(source, kinds, "the folder layout: images and labels of each split")


def _lists(source: Path) -> Known | None:
    """Return the folder layout with lists of files: train.txt and val.txt."""
    files = sorted(p for p in source.glob("*") if p.suffix.lower() in TABLE_SUFFIXES)
    kinds = _by_kind((split_named(file.stem), file.name) for file in files if file.stem.isalpha())
    known = _of_splits(source, kinds, "lists of files")
    return known if known and known.val_split else None


def _by_kind(named: Iterable[tuple[str | None, str]]) -> dict[str | None, list[str]]:
    kinds: dict[str | None, list[str]] = {}
    for kind, name in named:
        kinds.setdefault(kind, []).append(name)
    return kinds


def _of_splits(source: Path, kinds: Mapping[str | None, list[str]], how: str) -> Known | None:
    if "train" not in kinds:
        return None
    val = kinds["val"][0] if "val" in kinds else None
    dataset = "camvid" if _has_classes_of(source, "camvid") else "folder"
    reason = f"CamVid by its classes.txt, in {how}" if dataset == "camvid" else how
    return Known(dataset, source, kinds["train"][0], val, tuple(kinds.get("test", ())), reason)


def _has_classes_of(source: Path, dataset: str) -> bool:
    if not (source / "classes.txt").is_file():
        return False
    try:
        require_own_classes(source, dataset, load_label_table(dataset))
    except InputError:
        return False
    return True


def _is_readable(known: Known) -> bool:
    """Return whether all splits are complete and the masks hold labels, not colours or 0/255."""
    try:
        found = [_labels_in(known.open(split)) for split in known.splits]
    except InputError:
        return False
    return all(labels - {0, 255, 65535} for labels in found)


def _labels_in(dataset: SegmentationDataset) -> set[int]:
    shown = spread(len(dataset), _LOOKED_AT)
    return {int(label) for index in shown for label in np.unique(dataset.mask(index))}
