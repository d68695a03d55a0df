"""Count what a dataset holds before a plan is made: sizes, classes, widths of regions, damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sceneparse.auto.sides import Place, places, sided_classes
from sceneparse.auto.widths import Regions, middle_width, region_widths
from sceneparse.data.checks.duplicates import similar_groups
from sceneparse.data.checks.findings import notes as notes_of
from sceneparse.data.checks.findings import useless_splits
from sceneparse.data.checks.full import (
    SampleFacts,
    by_split,
    check_all_samples,
    find_duplicates,
    summarise,
)
from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.data.labels import Labels
from sceneparse.data.reading import read_all
from sceneparse.data.sample_checks import absent_classes
from sceneparse.errors import InputError, first_few

# Of a split, at most so many images are looked at, and fewer if they have many pixels in total.
_MAX_SAMPLES, _MIN_SAMPLES, _MAX_PIXELS = 600, 60, 600_000_000
_SIZES = 51
# Regions are measured in so many masks per class, and fewer if these are large.
_MAX_MEASURED, _MIN_MEASURED, _MEASURED_PIXELS = 16, 4, 24_000_000
_PLACED = 100  # masks that show on which sides classes lie


@dataclass(frozen=True)
class DataFacts:
    """What a training and a validation split hold.

    sizes: smallest, middle and largest height and width, by area. pixels, images, ignored: of the
    `looked_at` training images, all of them or an even sample: pixels per class, images that show
    it, share of ignored pixels. widths: of each class's regions, in pixels of the files, None for
    classes that no mask shows. sided: pairs of classes that a mirror image would swap.
    duplicates: training images that look like another one; twins: validation images that look like
    a training image, both of the images looked at. notes: sentences worth printing.
    """

    names: tuple[str, ...]
    train_images: int
    val_images: int
    looked_at: int
    sizes: tuple[tuple[int, int], ...]
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    ignored: float
    widths: tuple[float | None, ...]
    sided: tuple[tuple[str, str], ...]
    sided_reason: str
    duplicates: int
    twins: int
    notes: tuple[str, ...]


def facts_of(
    train: SegmentationDataset,
    val: SegmentationDataset,
    after_sample: Callable[[], None],
    layout: str = "folder",
) -> DataFacts:
    """Read the samples of both splits, an even sample if there are many, and count.

    `layout` is the name of the dataset. `after_sample` is called after each of `sample_count`
    samples. Raises InputError with the first problem that would make training fail.
    """
    parts = {"train": _sampled(train), "val": _sampled(val)}
    facts = check_all_samples(parts, after_sample)
    table = train.table
    twins = find_duplicates(facts)
    summary = summarise(facts, twins, table.names)
    _require_usable(summary, train, layout)
    found = by_split(facts)["train"]
    counts = np.array([one.counts for one in found], np.int64)
    ignored = sum(one.ignored for one in found)
    groups = similar_groups([one.fingerprint for one in found])
    widths, shown = _measure(parts["train"], counts, [group[0] for group in groups])
    sided, reason = sided_classes(table.names, shown)
    sizes = ((one.size[0], one.size[1]) for one in found)
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return DataFacts(
        names=tuple(table.names),
        train_images=len(train),
        val_images=len(val),
        looked_at=len(found),
        sizes=tuple(by_area[k] for k in (0, len(by_area) // 2, -1)),
        pixels=tuple(counts.sum(0).tolist()),
        images=tuple((counts > 0).sum(0).tolist()),
        ignored=float(ignored / (ignored + counts.sum())),
        widths=widths,
        sided=sided,
        sided_reason=reason,
        duplicates=sum(len(group) for group in groups if len(group) > 1),
        twins=len(twins),
        notes=tuple(_notes(facts, summary, train, val, layout)),
    )


def sample_count(train: SegmentationDataset, val: SegmentationDataset) -> int:
    """Return how many samples `facts_of` reads."""
    return sum(len(_sampled(split)) for split in (train, val))


def _sampled(dataset: SegmentationDataset) -> SegmentationDataset:
    """Return the samples that are looked at: all, or an even sample of many or large ones."""
    sizes = dataset.sizes(spread(len(dataset), _SIZES))
    pixels = np.median([height * width for height, width in sizes])
    limit = int(np.clip(_MAX_PIXELS / pixels, _MIN_SAMPLES, _MAX_SAMPLES))
    pairs = [dataset.pairs[k] for k in spread(len(dataset), limit)]
    return SegmentationDataset(pairs, dataset.table, dataset.bit_depth, dataset.resize)


def _require_usable(summary: dict[str, Any], train: SegmentationDataset, layout: str) -> None:
    """Raise InputError with the first problem that would make training fail, or teach nothing."""
    problems = [f"{p['split']}: {p['problem']}" for p in summary["problems"]]
    problems += [f"{k}: {why}" for k, why in useless_splits(summary, train.table, layout).items()]
    if not problems:
        rows = summary["splits"]["train"]["classes"]
        shown = [row["name"] for row in rows if row["pixels"]]
        if len(shown) < 2:
            problems = [f"the training masks show one class only, '{first_few(shown)}'; add others"]
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(
            f"{len(problems)} problems in the data, the first: {problems[0]}; `sceneparse check` "
            "lists all"
        )


def _measure(
    dataset: SegmentationDataset, counts: np.typing.NDArray[np.int64], distinct: Sequence[int]
) -> tuple[tuple[float | None, ...], list[dict[int, Place]]]:
    """Return the width of each class, and where classes lie in images that do not look alike.

    `counts`: pixels by image and class (N, K). `distinct`: images that do not look alike.
    """
    labels_at: dict[int, list[int]] = {}
    pixels = counts.sum(1).max(initial=1)
    limit = int(np.clip(_MEASURED_PIXELS / pixels, _MIN_MEASURED, _MAX_MEASURED))
    for label in range(counts.shape[1]):
        showing = np.flatnonzero(counts[:, label])
        for k in spread(len(showing), limit) if len(showing) else []:
            labels_at.setdefault(int(showing[k]), []).append(label)
    table = dataset.table

    def measure(index: int) -> tuple[dict[int, Regions], dict[int, Place]]:
        mask: Labels = dataset.mask(index)
        labels = labels_at.get(index, [])
        widths = {label: region_widths(mask, label, table.ignore_index) for label in labels}
        return widths, places(mask, table.num_classes)

    chosen = sorted({*labels_at, *(distinct[k] for k in spread(len(distinct), _PLACED))})
    measured = read_all(measure, chosen)
    regions = [
        [found[label] for found, _ in measured if label in found]
        for label in range(table.num_classes)
    ]
    lone = {*distinct}
    shown = [where for index, (_, where) in zip(chosen, measured, strict=True) if index in lone]
    return tuple(map(middle_width, regions)), shown


def _notes(
    facts: Sequence[SampleFacts],
    summary: dict[str, Any],
    train: SegmentationDataset,
    val: SegmentationDataset,
    layout: str,
) -> list[str]:
    """Return what is worth knowing: samples looked at, absent classes, odd masks, the doctor's."""
    notes = []
    for name, split in (("training", train), ("validation", val)):
        count = summary["splits"]["train" if split is train else "val"]["samples"]
        if count < len(split):
            notes.append(
                f"{count} of {len(split)} {name} images were looked at, evenly spread; counts are "
                "those of these."
            )
    absent = {
        name: absent_classes(
            {k for k, row in enumerate(part["classes"]) if row["pixels"]}, train.table
        )
        for name, part in summary["splits"].items()
    }
    if absent["train"] and layout == "folder":
        notes.append(
            f"No training image shows {_quoted(absent['train'])}: what no image shows cannot be "
            "learned; add images of it."
        )
    if only := [name for name in absent["val"] if name not in absent["train"]]:
        notes.append(
            f"No validation image shows {_quoted(only)}: the validation score says nothing about "
            "it."
        )
    if summary["twins"]:
        first = summary["twins"][0]
        notes.append(
            f"{len(summary['twins'])} validation images look like a training image, e.g. "
            f"{first['second']} like {first['first']}: scores on them promise too much."
        )
    if summary["suspicious"]:
        first = summary["suspicious"][0]
        notes.append(
            f"{len(summary['suspicious'])} masks look odd, e.g. {first['mask']}: {first['reason']}."
        )
    found = notes_of(facts, summary, train.table, layout)
    return notes + [f"{one['note']}. What to do: {one['remedy']}." for one in found]


def _quoted(names: Sequence[str]) -> str:
    return first_few(f"'{name}'" for name in names)
