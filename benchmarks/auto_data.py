"""The datasets of the benchmark of `sceneparse auto`: what is given, and what is held out.

Each is a folder: `given` as its user has it, `hand` the same images as the hand recipes need them,
if that differs, and `held_out` with the split test, which nobody reads before the scores.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sceneparse.auto.intake import take_in
from sceneparse.cli import convert
from sceneparse.data.checks.duplicates import fingerprints_of
from sceneparse.data.checks.splits import natural_order, plan_splits
from sceneparse.data.datasets import SegmentationDataset, create_dataset, spread
from sceneparse.data.pairing import Pair, pair_folders
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError

# Images of CamVid with the class road alone, and slices and photos that are held out.
_ROAD_TRAIN, _ROAD_VAL = 60, 20
_HELD_OUT_SLICES, _HELD_OUT_PHOTOS = 9, 28
# Scenes by split, and the seeds of those that are given and of those that are held out.
_SCENES, _HELD_OUT_SCENES = {"train": 64, "val": 16}, {"test": 60}
_GIVEN_SEED, _HELD_OUT_SEED = 1, 2


@dataclass(frozen=True)
class Prepared:
    """The folder of a prepared dataset."""

    name: str
    folder: Path

    @property
    def given(self) -> Path:
        """What `sceneparse auto` gets."""
        return self.folder / "given"

    @property
    def hand(self) -> Path:
        """What the hand recipes get: the same images, with the splits train and val."""
        split = self.folder / "hand"
        return split if split.is_dir() else self.given

    @property
    def held_out(self) -> Path:
        """The images that are scored, split test."""
        return self.folder / "held_out"

    @property
    def layout(self) -> str:
        """The name of DATASETS that the hand recipes read it by."""
        return "camvid" if self.name == "camvid" else "folder"

    def open(self, split: str) -> SegmentationDataset:
        """Open a split: train or val as the hand recipes have them, or test."""
        return create_dataset(self.layout, self.held_out if split == "test" else self.hand, split)


def prepare(name: str, packs: Path, work: Path) -> Prepared:
    """Prepare a dataset of SETS below `work`, unless that is done; all of it or nothing.

    `packs` holds camvid, crackforest and membrane. Files are linked, not copied. Raises InputError
    if a pack is missing.
    """
    target = work / name
    if not target.is_dir():
        pack = packs / PACKS.get(name, "")
        if name in PACKS and not pack.is_dir():
            raise InputError(
                f"'{pack}' does not exist, which {name} is made of; give the folder that holds it "
                "with --packs, or other rows with --only"
            )
        partial = work / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        SETS[name](pack, partial)
        partial.rename(target)
    return Prepared(name, target)


def _camvid(pack: Path, folder: Path) -> None:
    """Give the splits train and val of CamVid, and hold out test."""
    for split, place in {"train": "given", "val": "given", "test": "held_out"}.items():
        pairs = create_dataset("camvid", pack, split).pairs
        _link(pairs, folder / place / split, "labels")
        _copy_tables(pack, folder / place)


def _camvid60(pack: Path, folder: Path) -> None:
    """Give few images of CamVid, evenly spread in time, with the classes background and road."""
    counts = {"train": _ROAD_TRAIN, "val": _ROAD_VAL, "test": None}
    for split, count in counts.items():
        whole = create_dataset("camvid", pack, split)
        place = folder / ("held_out" if split == "test" else "given")
        chosen = spread(len(whole), count or len(whole))
        pairs = [whole.pairs[index] for index in chosen]
        _link(pairs, place / split, None)
        labels, road = place / split / "labels", whole.table.names.index("Road")
        labels.mkdir()
        for index, pair in zip(chosen, pairs, strict=True):
            mask = whole.mask(index)
            ignored = mask == whole.table.ignore_index
            binary = np.where(ignored, 255, mask == road).astype(np.uint8)
            cv2.imwrite(str(labels / f"{pair.image.stem}.png"), binary)
        (place / "classes.txt").write_text("background\nroad\n", encoding="utf-8")


def _crackforest(pack: Path, folder: Path) -> None:
    """Hold out photos of cracks; look-alikes stay on one side."""
    pairs = pair_folders(pack / "images", pack / "masks").pairs
    images = [pair.image for pair in pairs]
    shares = {"given": len(pairs) - _HELD_OUT_PHOTOS, "held_out": _HELD_OUT_PHOTOS}
    prints = fingerprints_of(images)
    split_of = plan_splits(images, prints, shares, 0, "together").split_of
    _without_split(pairs, {p.image for p in pairs if split_of[p.image] == "held_out"}, folder)


def _membrane(pack: Path, folder: Path) -> None:
    """Hold out the last slices of the stack, since neighbours look alike."""
    pairs = pair_folders(pack / "images", pack / "masks").pairs
    in_order = sorted((pair.image for pair in pairs), key=lambda path: natural_order(path.name))
    _without_split(pairs, {*in_order[-_HELD_OUT_SLICES:]}, folder)


def _scenes(_: Path, folder: Path) -> None:
    """Draw synthetic scenes; those that are held out have another seed."""
    write_dataset(folder / "given", _SCENES, seed=_GIVEN_SEED)
    write_dataset(folder / "held_out", _HELD_OUT_SCENES, seed=_HELD_OUT_SEED)


def _without_split(pairs: Iterable[Pair], held_out: set[Path], folder: Path) -> None:
    """Give images and masks without splits; split them for the hand recipes as auto does."""
    sides: Mapping[bool, list[Pair]] = {True: [], False: []}
    for pair in pairs:
        sides[pair.image in held_out].append(pair)
    _link(sides[False], folder / "given", "masks")
    _link(sides[True], folder / "held_out_masks", "masks")
    taken = take_in(folder / "given", folder / "taken_in", val=None, classes=None, seed=0)
    taken.root.rename(folder / "hand")
    source, target = folder / "held_out_masks", folder / "held_out"
    arguments = [str(source), str(target), "--link", "--split", "test=1"]
    with redirect_stdout(io.StringIO()):
        convert.main(convert.parser().parse_args(arguments))
    for used in (source, folder / "taken_in"):
        shutil.rmtree(used)


def _link(pairs: Iterable[Pair], folder: Path, masks: str | None) -> None:
    """Link to the images in FOLDER/images and, unless `masks` is None, the masks in that folder."""
    for pair in pairs:
        links = {"images": pair.image} | ({} if masks is None else {masks: pair.mask})
        for kind, file in links.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / file.name).symlink_to(file.resolve())


def _copy_tables(pack: Path, place: Path) -> None:
    for name in ("classes.txt", "colors.txt"):
        if (pack / name).is_file():
            shutil.copyfile(pack / name, place / name)


# The folders that they are made of, and how they are made from them.
PACKS = {
    "camvid": "camvid",
    "camvid60": "camvid",
    "crackforest": "crackforest",
    "membrane": "membrane",
}
SETS: dict[str, Callable[[Path, Path], None]] = {
    "camvid": _camvid,
    "camvid60": _camvid60,
    "crackforest": _crackforest,
    "membrane": _membrane,
    "scenes": _scenes,
}
