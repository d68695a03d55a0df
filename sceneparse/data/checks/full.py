"""Check a whole dataset: what is damaged, mislabelled, suspicious or in two splits at once."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.balance import CLASS_WEIGHTS, class_weights
from sceneparse.data.checks.duplicates import BLANK, Fingerprint, fingerprint_of, nearest_duplicates
from sceneparse.data.checks.traits import bits_of, explain, traits_of
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import count_labels
from sceneparse.data.pairing import Pair
from sceneparse.data.reading import read_all
from sceneparse.errors import InputError


@dataclass(frozen=True)
class SampleFacts:
    """What was found in one sample; `problem` is the reason why it cannot be used.

    counts: pixels per class (K,). color_sums (2, 3): RGB sums over all pixels of the values, in
    0..1, and of their squares. traits: names in TRAITS. bits: those per channel, and those used.
    """

    split: str
    pair: Pair
    problem: str | None = None
    size: tuple[int, ...] = (0, 0)
    counts: tuple[int, ...] = ()
    ignored: int = 0
    color_sums: NDArray[np.float64] | None = None
    fingerprint: Fingerprint = field(default=BLANK, repr=False)
    traits: frozenset[str] = frozenset()
    bits: tuple[int, int] = (8, 8)

    @property
    def suspicion(self) -> str | None:
        """The reason why a usable mask looks odd; None if it does not."""
        present = [k for k, count in enumerate(self.counts) if count]
        if self.problem is None and not present:
            return "every pixel is ignored"
        if len(present) == 1 and not self.ignored:
            return f"every pixel is of class {present[0]}"
        if present == [0] and self.counts[1:] == (0,):
            return "only class 0 and ignored pixels; if ignored ones are class 1, store them as 1"
        return None


def check_all_samples(
    datasets: Mapping[str, SegmentationDataset], after_sample: Callable[[], None]
) -> list[SampleFacts]:
    """Decode every sample of all splits strictly, in parallel; a bad sample raises nothing."""
    jobs = [(split, data, i) for split, data in datasets.items() for i in range(len(data))]
    return read_all(lambda job: _check_sample(*job), jobs, after=after_sample)


def _check_sample(split: str, dataset: SegmentationDataset, index: int) -> SampleFacts:
    pair = dataset.pairs[index]
    for kind, path in (("image", pair.image), ("mask", pair.mask)):
        if not path.is_file():
            return SampleFacts(split, pair, problem=f"{path}: this {kind} is missing")
    try:
        image, mask, _ = dataset[index]
    except InputError as error:
        problem = explain(pair, str(error))
        return SampleFacts(split, pair, problem=problem, traits=traits_of(pair))
    counts = count_labels(mask, dataset.table.num_classes)
    means, deviations = (x.ravel() / 255 for x in cv2.meanStdDev(image))
    return SampleFacts(
        split,
        pair,
        size=mask.shape,
        counts=tuple(counts.tolist()),
        ignored=int(mask.size - counts.sum()),
        color_sums=mask.size * np.stack([means, means**2 + deviations**2]),
        fingerprint=fingerprint_of(image),
        traits=traits_of(pair),
        bits=bits_of(pair.image) if dataset.bit_depth is None else (8, 8),
    )


# Two images of different splits that show nearly the same picture, and how much their greys differ.
Duplicates = tuple[SampleFacts, SampleFacts, float]


def by_split(facts: Sequence[SampleFacts]) -> dict[str, list[SampleFacts]]:
    """Return the samples of each split."""
    return {split: list(group) for split, group in itertools.groupby(facts, lambda f: f.split)}


def find_duplicates(facts: Sequence[SampleFacts]) -> list[Duplicates]:
    """Find images that occur in more than one split, also resized, recompressed or brightened.

    Each image of a later split comes once, with the most similar image of an earlier one.
    """
    found = []
    for ours, theirs in itertools.combinations(by_split(facts).values(), 2):
        prints = [[f.fingerprint for f in split] for split in (ours, theirs)]
        pairs = nearest_duplicates(*prints)
        found += [(ours[i], theirs[j], difference) for i, j, difference in pairs]
    return sorted(found, key=lambda pair: pair[2])


def summarise(
    facts: Sequence[SampleFacts], duplicates: Sequence[Duplicates], names: Sequence[str]
) -> dict[str, Any]:
    """Return all findings as the plain values of the JSON report.

    `names` are the classes. Mean, deviation and class weights are those of the first split.
    """
    splits = by_split(facts)
    # Settings for training must not be computed from test images.
    used = [f for f in splits[facts[0].split] if f.problem is None]
    counts = np.array([f.counts for f in used], dtype=np.int64).reshape(len(used), len(names))
    mean, std = _color_statistics(used)
    return {
        "splits": {split: _summarise_split(part, names) for split, part in splits.items()},
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
                "first": str(first.pair.image),
                "second": str(second.pair.image),
                "splits": [first.split, second.split],
                "grey_difference": round(difference, 2),
            }
            for first, second, difference in duplicates
        ],
        "mean": mean,
        "std": std,
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


def _color_statistics(used: Sequence[SampleFacts]) -> tuple[list[float], list[float]]:
    """Compute RGB mean and standard deviation over all pixels; empty without samples."""
    sums = [f.color_sums for f in used if f.color_sums is not None]
    if not sums:
        return [], []
    mean, square = np.sum(sums, axis=0) / sum(f.size[0] * f.size[1] for f in used)
    return mean.round(4).tolist(), np.sqrt(square - mean**2).round(4).tolist()
