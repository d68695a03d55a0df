"""Random but repeatable splits that keep look-alike images on one side and leave none empty."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.checks.duplicates import Fingerprint, distinct, joined, similar_groups
from sceneparse.data.checks.videos import video_scenes
from sceneparse.errors import InputError, unknown_name

# What is done with look-alikes: they share a split, one of them stays, or they are ignored.
NEAR_DUPLICATES = ("together", "drop", "keep")


@dataclass(frozen=True)
class SplitPlan:
    """The split of each image, the images that no split gets, and lines to print.

    `together`: groups of images that were to share a split; `cut`: those that are in several.
    """

    split_of: dict[Path, str]
    dropped: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    together: list[list[Path]] = field(default_factory=list)
    cut: list[list[Path]] = field(default_factory=list)


def plan_splits(
    images: Sequence[Path],
    fingerprints: Sequence[Fingerprint],
    shares: Mapping[str, float],
    seed: int,
    near_duplicates: str,
    *,
    videos: bool = False,
) -> SplitPlan:
    """Plan which split gets which image; no split stays empty.

    `shares` are the wanted parts, e.g. {"train": 0.8, "val": 0.2}. The same files, shares and seed
    give the same splits, in any order of the files. `near_duplicates`:
    - together: look-alikes share a split. Groups are dealt largest first, each to the split that
      lacks most images. If a split then has less than half or more than twice its share, the
      largest group is cut, then the next largest, until none has: a cut group, in natural order of
      names (which is time for videos), becomes one block per split, in the order of `shares`, and
      its blocks fill what the splits lack.
      With `videos`, images that follow each other in a video are grouped like look-alikes.
    - drop: an image that looks like one that stays is dropped, in natural order of names.
    - keep: look-alikes are ignored, and no `fingerprints` are needed, as for a single split.

    Raises InputError for fewer images than splits.
    """
    if near_duplicates not in NEAR_DUPLICATES:
        raise unknown_name("near_duplicates", near_duplicates, NEAR_DUPLICATES)
    if near_duplicates == "drop":
        return _plan_without_look_alikes(images, fingerprints, shares, seed)
    _require_images(len(images), shares)
    order = sorted(range(len(images)), key=lambda i: images[i].as_posix())
    groups = [[i] for i in order]
    if near_duplicates == "together" and len(shares) > 1:
        similar = similar_groups([fingerprints[i] for i in order])
        groups = [[order[i] for i in group] for group in similar]
        if videos:
            in_time = sorted(order, key=lambda i: natural_order(images[i].as_posix()))
            scenes = video_scenes([fingerprints[i] for i in in_time])
            groups = joined(groups, [[in_time[i] for i in scene] for scene in scenes])
    names = [image.as_posix() for image in images]
    cut, split_at = _assign(groups, names, shares, seed)
    split_of = {images[i]: split_at[i] for group in groups for i in group}
    together = [sorted(images[i] for i in group) for group in groups if len(group) > 1]
    apart = [
        sorted(images[i] for i in group) for group in cut if len({split_at[i] for i in group}) > 1
    ]
    notes = _notes(images, groups, cut, split_at)
    return SplitPlan(split_of, notes=notes, together=together, cut=apart)


def _require_images(count: int, shares: Mapping[str, float], why: str = "") -> None:
    if count < len(shares):
        raise InputError(
            f"{count} images{why} for {len(shares)} splits ({', '.join(shares)}); at least "
            f"{len(shares)} are needed: add images or ask for fewer splits, e.g. --split train=1"
        )


def _plan_without_look_alikes(
    images: Sequence[Path],
    fingerprints: Sequence[Fingerprint],
    shares: Mapping[str, float],
    seed: int,
) -> SplitPlan:
    order = sorted(range(len(images)), key=lambda i: natural_order(images[i].as_posix()))
    kept = [images[order[i]] for i in distinct([fingerprints[i] for i in order])]
    chosen = set(kept)
    dropped = [images[i] for i in order if images[i] not in chosen]
    why = f" (of {len(images)}: the others look like them and were dropped)" if dropped else ""
    _require_images(len(kept), shares, why)
    plan = plan_splits(kept, (), shares, seed, "keep")
    notes = [f"{len(dropped)} of {len(images)} images are dropped: each looks like one that stays"]
    return SplitPlan(plan.split_of, dropped, notes if dropped else [])


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts names as people count: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _assign(
    groups: Sequence[list[int]], names: Sequence[str], shares: Mapping[str, float], seed: int
) -> tuple[list[list[int]], dict[int, str]]:
    """Return the groups that had to be cut, and the split of every image."""
    size, total = sum(map(len, groups)), sum(shares.values())
    generator = np.random.default_rng(seed)
    shuffled = [groups[i] for i in generator.permutation(len(groups))]
    ranked = sorted(shuffled, key=len, reverse=True)
    exact = np.array([share / total * size for share in shares.values()])
    whole = _apportion(size, exact, smallest=1)
    # Whole numbers of at least 1 instead of exact shares, only if those leave a split short.
    for wanted, count in [(exact, 0), *((whole, count) for count in range(len(ranked) + 1))]:
        dealt = np.zeros(len(shares))
        number_of = {}
        for group in ranked[count:]:
            split = int(np.argmax(wanted - dealt))
            dealt[split] += len(group)
            number_of.update(dict.fromkeys(group, split))
        for group in ranked[:count]:
            blocks = _apportion(len(group), np.maximum(wanted - dealt, 0))
            dealt += blocks
            in_time = sorted(group, key=lambda i: natural_order(names[i]))
            number_of.update(zip(in_time, np.repeat(range(len(shares)), blocks), strict=True))
        if (dealt >= whole / 2).all() and (dealt <= whole * 2).all():
            break
    split_names = list(shares)
    return ranked[:count], {i: split_names[number] for i, number in number_of.items()}


def _apportion(count: int, weights: NDArray[Any], smallest: int = 0) -> NDArray[np.int_]:
    """Divide `count` into whole numbers in proportion to `weights`, each of at least `smallest`."""
    quotas = weights / weights.sum() * count
    parts = np.full(len(weights), smallest)
    for _ in range(count - parts.sum()):
        parts[np.argmax(quotas - parts)] += 1
    return parts


def _notes(
    images: Sequence[Path],
    groups: Sequence[list[int]],
    cut: Sequence[list[int]],
    split_at: Mapping[int, str],
) -> list[str]:
    """Describe groups of look-alikes: those that were cut one by one, the others as a sum."""
    notes = []
    for group in cut:
        in_time = sorted(group, key=lambda i: natural_order(images[i].as_posix()))
        blocks = [list(block) for _, block in itertools.groupby(in_time, lambda i: split_at[i])]
        parts = [
            f"{split_at[block[0]]} {images[block[0]].name} to {images[block[-1]].name}"
            f" ({len(block)})"
            for block in blocks
        ]
        if len(blocks) > 1:
            notes.append(
                f"{len(group)} of {len(images)} images look alike (a fixed camera or a video?), "
                f"too many for one split; cut in order of their names: {', '.join(parts)}. Scores "
                "on such images promise too much for new scenes: put other scenes into a split, "
                "or choose --near-duplicates drop (one of each stays) or keep (dealt at random)"
            )
    similar = [group for group in groups if len(group) > 1 and group not in cut]
    if similar and len(set(split_at.values())) > 1:
        notes.append(
            f"{sum(map(len, similar))} of {len(images)} images look like another one, in "
            f"{len(similar)} groups; each group is in one split (--near-duplicates together)"
        )
    return notes
