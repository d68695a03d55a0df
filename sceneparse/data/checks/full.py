"""Check a whole dataset: what is damaged, mislabelled, suspicious or in two splits at once."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from sceneparse.data.balance import CLASS_WEIGHTS, class_weights
from sceneparse.data.checks.duplicates import Fingerprint, duplicate_pairs, fingerprint_of
from sceneparse.data.datasets import Pair, SegmentationDataset
from sceneparse.data.labels import count_labels
from sceneparse.errors import InputError


@dataclass(frozen=True)
class SampleFacts:
    """What was found in one sample; `problem` is the reason why it cannot be used.

    counts: pixels per class (K,). color_sum and color_square_sum: RGB sums over all pixels of the
    values and their squares, in 0..1.
    """

    split: str
    pair: Pair
    problem: str | None = None
    size: tuple[int, int] = (0, 0)
    counts: tuple[int, ...] = ()
    ignored: int = 0
    color_sum: tuple[float, ...] = ()
    color_square_sum: tuple[float, ...] = ()
    fingerprint: Fingerprint | None = field(default=None, repr=False)

    @property
    def suspicion(self) -> str | None:
        """The reason why a usable mask looks odd; None if it does not."""
        if self.problem is not None:
            return None
        if not any(self.counts):
            return "every pixel is ignored"
        present = [k for k, count in enumerate(self.counts) if count]
        if len(present) == 1 and not self.ignored:
            return f"every pixel is of class {present[0]}"
        return None


def check_all_samples(
    datasets: Mapping[str, SegmentationDataset], after_sample: Callable[[], None]
) -> list[SampleFacts]:
    """Decode every sample of all splits strictly, in parallel; a bad sample raises nothing."""
    jobs = [(split, i) for split, dataset in datasets.items() for i in range(len(dataset))]

    def check_one(job: tuple[str, int]) -> SampleFacts:
        facts = _check_sample(job[0], datasets[job[0]], job[1])
        after_sample()
        return facts

    # Threads are enough, because decoding releases the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(check_one, jobs))


def _check_sample(split: str, dataset: SegmentationDataset, index: int) -> SampleFacts:
    pair = dataset.pairs[index]
    for kind, path in (("image", pair.image), ("mask", pair.mask)):
        if not path.is_file():
            return SampleFacts(split, pair, problem=f"{path}: this {kind} is missing")
    try:
        image, mask, _ = dataset[index]
    except InputError as error:
        return SampleFacts(split, pair, problem=str(error))
    counts = count_labels(mask, dataset.table.num_classes)
    means, deviations = (x.ravel() for x in cv2.meanStdDev(image))
    return SampleFacts(
        split,
        pair,
        size=(mask.shape[0], mask.shape[1]),
        counts=tuple(int(count) for count in counts),
        ignored=int(mask.size - counts.sum()),
        color_sum=tuple(float(x) * mask.size / 255 for x in means),
        color_square_sum=tuple(
            float(m * m + d * d) * mask.size / 255**2
            for m, d in zip(means, deviations, strict=True)
        ),
        fingerprint=fingerprint_of(image),
    )


@dataclass(frozen=True)
class Duplicates:
    """Two images of different splits that show the same picture, or nearly."""

    first: SampleFacts
    second: SampleFacts
    grey_difference: float


def find_duplicates(facts: Sequence[SampleFacts]) -> list[Duplicates]:
    """Find images that occur in more than one split, also resized, recompressed or brightened."""
    by_split: dict[str, list[tuple[SampleFacts, Fingerprint]]] = {}
    for f in facts:
        if f.fingerprint is not None:
            by_split.setdefault(f.split, []).append((f, f.fingerprint))
    found = []
    for ours, theirs in itertools.combinations(by_split.values(), 2):
        prints = [[fingerprint for _, fingerprint in split] for split in (ours, theirs)]
        found += [
            Duplicates(ours[i][0], theirs[j][0], difference)
            for i, j, difference in duplicate_pairs(*prints)
        ]
    return sorted(found, key=lambda pair: pair.grey_difference)


def summarise(
    facts: Sequence[SampleFacts], duplicates: Sequence[Duplicates], names: Sequence[str]
) -> dict[str, Any]:
    """Return all findings as the plain values of the JSON report.

    `names` are the classes. Mean, deviation and class weights are those of the first split.
    """
    # Settings for training must not be computed from test images.
    training = [f for f in facts if f.split == facts[0].split]
    used = [f for f in training if f.problem is None]
    counts = np.array([f.counts for f in used], dtype=np.int64).reshape(len(used), len(names))
    pixels = sum(f.size[0] * f.size[1] for f in used)
    return {
        "splits": {
            split: _summarise_split([f for f in facts if f.split == split], names)
            for split in dict.fromkeys(f.split for f in facts)
        },
        "problems": [
            {"split": f.split, "name": f.pair.name, "problem": f.problem}
            for f in facts
            if f.problem
        ],
        "suspicious": [
            {"split": f.split, "mask": str(f.pair.mask), "reason": f.suspicion}
            for f in facts
            if f.suspicion
        ],
        "twins": [
            {
                "first": str(t.first.pair.image),
                "second": str(t.second.pair.image),
                "splits": [t.first.split, t.second.split],
                "grey_difference": round(t.grey_difference, 2),
            }
            for t in duplicates
        ],
        "mean": _per_pixel([f.color_sum for f in used], pixels),
        "std": _deviation(used, pixels),
        "class_weights": {
            rule: [round(weight, 4) for weight in class_weights(rule, counts)]
            for rule in CLASS_WEIGHTS
            if counts.any()
        },
    }


def _summarise_split(facts: Sequence[SampleFacts], names: Sequence[str]) -> dict[str, Any]:
    used = [f for f in facts if f.problem is None]
    sizes = Counter(f"{f.size[1]}x{f.size[0]}" for f in used)
    return {
        "samples": len(facts),
        "usable": len(used),
        "sizes": dict(sizes.most_common(5)),
        "other_sizes": max(len(sizes) - 5, 0),
        "ignored_pixels": sum(f.ignored for f in used),
        "classes": [
            {
                "name": name,
                "pixels": sum(f.counts[k] for f in used),
                "images": sum(f.counts[k] > 0 for f in used),
            }
            for k, name in enumerate(names)
        ],
    }


def _per_pixel(sums: Sequence[tuple[float, ...]], pixels: int) -> list[float]:
    return [round(float(x), 4) for x in np.sum(sums, axis=0) / pixels] if sums else []


def _deviation(used: Sequence[SampleFacts], pixels: int) -> list[float]:
    if not used:
        return []
    mean = np.sum([f.color_sum for f in used], axis=0) / pixels
    square = np.sum([f.color_square_sum for f in used], axis=0) / pixels
    return [round(float(x), 4) for x in np.sqrt(square - mean**2)]
