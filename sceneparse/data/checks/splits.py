"""Random but repeatable splits that keep near-duplicate images on one side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sceneparse.data.checks.duplicates import Fingerprint, duplicate_pairs


def split_images(
    images: Sequence[Path],
    fingerprints: Sequence[Fingerprint],
    shares: Mapping[str, float],
    seed: int,
) -> dict[Path, str]:
    """Return the split of every image; duplicates share a split.

    `shares` are the wanted parts, e.g. {"train": 0.8, "val": 0.2}. The same files, shares and seed
    give the same splits, in any order of the files.
    """
    order = sorted(range(len(images)), key=lambda i: images[i].as_posix())
    groups = _groups([fingerprints[i] for i in order])
    generator = np.random.default_rng(seed)
    total, dealt = sum(shares.values()), dict.fromkeys(shares, 0)
    result = {}
    # Large groups first, while every split has room for them. Each goes to the split that lacks
    # most images.
    shuffled = [groups[i] for i in generator.permutation(len(groups))]
    for group in sorted(shuffled, key=len, reverse=True):
        split = max(shares, key=lambda name: shares[name] / total * len(images) - dealt[name])
        dealt[split] += len(group)
        result.update({images[order[i]]: split for i in group})
    return result


def _groups(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Group the indices of all duplicates, also of those that are linked by a third image."""
    size = len(fingerprints)
    pairs = [pair[:2] for pair in duplicate_pairs(fingerprints, fingerprints)]
    edges = np.array(pairs, int).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(size, size))
    _, group_of = connected_components(graph, directed=False)
    return [np.flatnonzero(group_of == group).tolist() for group in np.unique(group_of)]
