"""Choose which images are for training and which for validation, if the source does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sceneparse.data.checks.duplicates import fingerprints_of
from sceneparse.data.checks.splits import SplitPlan, natural_order, plan_splits
from sceneparse.data.formats.shared.source import Item
from sceneparse.data.reading import read_all
from sceneparse.errors import InputError

# Validation gets a fifth, but at least _WANTED images while that is no more than a third; scores
# on _ENOUGH images are exact enough.
_SHARE, _LARGEST_SHARE, _WANTED, _ENOUGH = 0.2, 1 / 3, 10, 500
# More images are not compared, because decoding takes too long, but split in blocks.
_MAX_COMPARED, _BLOCKS = 2000, 20
# Of so many images, the masks are looked at, and so many splits are tried until both sides show
# every class.
_MAX_LOOKED_AT, _TRIES = 500, 8


def val_share(count: int) -> float:
    """Return the share of `count` images that validation gets."""
    wanted = min(max(_SHARE * count, _WANTED), _LARGEST_SHARE * count, _ENOUGH)
    return max(wanted, 1) / count


def split_items(
    items: Sequence[Item], num_classes: int, seed: int
) -> tuple[Mapping[Path, str], list[str]]:
    """Return the split of each image, "train" or "val", and sentences about it.

    Look-alikes and neighbours in a video stay together. Of up to 500 images, the first of eight
    splits whose sides show most classes is taken. Raises InputError for fewer than two images.
    """
    if len(items) < 2:
        raise InputError(
            f"{len(items)} image with a mask: at least 2 are needed, one to train on and one to "
            "validate on; add images, or give a folder with --val"
        )
    images = [item.image for item in items]
    if len(images) > _MAX_COMPARED:
        return _in_blocks(images, seed)
    prints = fingerprints_of(images)
    share = val_share(len(images))
    shares = {"train": 1 - share, "val": share}
    shown = _classes_in(items, num_classes) if len(items) <= _MAX_LOOKED_AT else {}
    best: tuple[tuple[int, int], SplitPlan] | None = None
    for attempt in range(_TRIES):
        # Splits of further attempts are those of other seeds, far from those that people give.
        number = seed + 1000003 * attempt
        plan = plan_splits(images, prints, shares, number, "together", videos=True)
        lacking = _lacking(plan.split_of, shown)
        if best is None or lacking < best[0]:
            best = lacking, plan
        if lacking == (0, 0):
            break
    assert best is not None
    return best[1].split_of, _describe(best[1], images, seed)


def _classes_in(items: Sequence[Item], num_classes: int) -> dict[Path, set[int]]:
    """Return the classes that each mask shows."""
    found = read_all(lambda item: {*np.unique(item.mask()).tolist()}, items, "masks")
    return {
        item.image: {label for label in labels if label < num_classes}
        for item, labels in zip(items, found, strict=True)
    }


def _lacking(split_of: Mapping[Path, str], shown: Mapping[Path, set[int]]) -> tuple[int, int]:
    """Return how many of the classes shown at all training lacks, and how many validation."""
    sides: dict[str, set[int]] = {"train": set(), "val": set()}
    for image, labels in shown.items():
        sides[split_of[image]] |= labels
    every = sides["train"] | sides["val"]
    return len(every - sides["train"]), len(every - sides["val"])


def _in_blocks(images: Sequence[Path], seed: int) -> tuple[dict[Path, str], list[str]]:
    """Split many images in blocks of neighbours by name, of which some are for validation."""
    in_order = sorted(images, key=lambda image: natural_order(image.as_posix()))
    share = val_share(len(images))
    blocks = np.array_split(np.arange(len(in_order)), round(_BLOCKS / share))
    chosen = np.random.default_rng(seed).permutation(len(blocks))[:_BLOCKS]
    val = {int(index) for block in chosen for index in blocks[block]}
    split_of = {image: "val" if k in val else "train" for k, image in enumerate(in_order)}
    note = (
        f"{_sentence(split_of, seed)} So many images are not compared: validation gets "
        f"{_BLOCKS} blocks of images whose names follow each other."
    )
    return split_of, [note]


def _sentence(split_of: Mapping[Path, str], seed: int) -> str:
    val = sum(split == "val" for split in split_of.values())
    return (
        f"No split was given: of {len(split_of)} images, {len(split_of) - val} are for training "
        f"and {val} for validation (a fifth, but at least {_WANTED} if that is no more than a "
        f"third, and at most {_ENOUGH}; seed {seed})."
    )


def _describe(plan: SplitPlan, images: Sequence[Path], seed: int) -> list[str]:
    """Return sentences about a split that was made."""
    notes = [_sentence(plan.split_of, seed)]
    if plan.together:
        notes.append(
            f"{sum(map(len, plan.together))} of {len(images)} images look like another one or "
            "follow each other in a video or a stack; they form groups "
            f"({len(plan.together)}), each in one split unless it is named here."
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
