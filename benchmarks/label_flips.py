"""Make labels of a dataset wrong at random: swapped classes, missing objects, shifted borders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.errors import InputError

KINDS = ("swapped class", "missing object", "shifted border")
# Share of the image that a region to flip covers, and the fewest pixels of a flip.
_SMALLEST, _LARGEST, _MIN_PIXELS = 0.001, 0.05, 32

Mask = NDArray[Any]


def write_flipped(
    dataset: SegmentationDataset, folder: Path, asked: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Write a dataset with flipped labels, all of it or nothing; return its flips.

    Beside the split "flipped", changes/NUMBER.png holds the number of the flip, from 1, of every
    changed pixel. Raises InputError if `folder` was made by other settings, or if there are not
    enough regions.
    """
    record = folder / "flips.json"
    if folder.is_dir():
        before = json.loads(record.read_text(encoding="utf-8"))
        if before["asked"] != dict(asked):
            raise InputError(f"'{folder}' was made with other settings; give another --output")
        return list(before["flips"])
    partial = folder.with_name(".data.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for kind in ("flipped/images", "flipped/labels", "changes"):
        (partial / kind).mkdir(parents=True)
    masks = [dataset.mask(number) for number in range(len(dataset))]
    changes, flips = flip_labels(masks, dataset.table.num_classes, asked["flips"], asked["seed"])
    for number, (pair, mask, change) in enumerate(zip(dataset.pairs, masks, changes, strict=True)):
        name = f"{number:05d}"
        link = partial / "flipped/images" / f"{name}{pair.image.suffix}"
        link.symlink_to(pair.image.resolve())
        cv2.imwrite(str(partial / "flipped/labels" / f"{name}.png"), mask)
        cv2.imwrite(str(partial / "changes" / f"{name}.png"), change)
    names = "\n".join(dataset.table.names)
    (partial / "classes.txt").write_text(f"{names}\n", encoding="utf-8")
    text = json.dumps({"asked": dict(asked), "flips": flips}, indent=1)
    (partial / "flips.json").write_text(text, encoding="utf-8")
    partial.rename(folder)
    return flips


def flip_labels(
    masks: Sequence[Mask], num_classes: int, count: int, seed: int
) -> tuple[list[NDArray[np.uint16]], list[dict[str, Any]]]:
    """Make `count` regions of masks (H, W) wrong, in place; return changed pixels and flips.

    The changed pixels of each mask hold the number of the flip, from 1, the others 0. Flips are
    spread over the images and do not touch each other.
    """
    generator = np.random.default_rng(seed)
    changes = [np.zeros(mask.shape, np.uint16) for mask in masks]
    flips: list[dict[str, Any]] = []
    used = sorted({int(k) for mask in masks for k in np.unique(mask) if k < num_classes})
    while len(flips) < count:
        before = len(flips)
        for number in generator.permutation(len(masks)).tolist():
            if len(flips) == count:
                break
            kind = KINDS[len(flips) % len(KINDS)]
            new = flip_one(masks[number], changes[number], kind, used, generator)
            if new is None:
                continue
            different = new != masks[number]
            flips.append({"image": number, "kind": kind, "pixels": int(different.sum())})
            changes[number][different] = len(flips)
            masks[number][different] = new[different]
        if len(flips) == before:
            raise InputError(f"only {before} of {count} regions can be flipped; ask for fewer")
    return changes, flips


def flip_one(
    mask: Mask,
    changed: NDArray[np.uint16],
    kind: str,
    used: Sequence[int],
    generator: np.random.Generator,
) -> Mask | None:
    """Return a mask with one more wrong region, away from those `changed`; None if none fits.

    `used`: the classes to choose from.
    """
    # A margin keeps two flips from being one region.
    free = cv2.dilate((changed > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    regions = list(regions_of(mask, used))
    for chosen in generator.permutation(len(regions)).tolist():
        given, region = regions[chosen]
        around = label_around(mask, region, used, given)
        if around is None:
            continue
        new: Mask = mask.copy()
        new[region] = around
        if kind == "swapped class":
            new[region] = generator.choice([k for k in used if k != given])
        elif kind == "shifted border":
            new[shifted(region, generator) & np.isin(mask, used)] = given
        different = new != mask
        if different.sum() >= _MIN_PIXELS and free[different].all():
            return new
    return None


def regions_of(mask: Mask, used: Sequence[int]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the connected regions of a mask that are neither tiny nor large, with their class."""
    low, high = max(_SMALLEST * mask.size, _MIN_PIXELS), _LARGEST * mask.size
    for k in used:
        own = (mask == k).astype(np.uint8)
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        for number in range(1, count):
            if low <= boxes[number, cv2.CC_STAT_AREA] <= high:
                yield k, numbers == number


def label_around(
    mask: Mask, region: NDArray[np.bool_], used: Sequence[int], given: int
) -> int | None:
    """Return the most frequent other class next to a region; None if there is none."""
    near = cv2.dilate(region.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    labels = mask[near & ~region & np.isin(mask, used)]
    labels = labels[labels != given]
    return int(np.bincount(labels).argmax()) if labels.size else None


def shifted(region: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return a region moved by a third of its mean diameter, in a random direction."""
    length, angle = max(np.sqrt(region.sum()) / 3, 4), generator.uniform(0, 2 * np.pi)
    move = np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]])
    size = region.shape[1], region.shape[0]
    moved = cv2.warpAffine(region.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST)
    return np.asarray(moved > 0)
