"""Find images that show the same picture, by small fingerprints that are compared fast."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.reading import read_all, read_image
from sceneparse.runtime.progress import Progress

# Two images look alike if both their 16x16 gradient signs and their 32x32 thumbnails agree: few
# signs differ, and grey values differ little on average.
_HASH_SIDE = 16
_MAX_DIFFERENT_SIGNS = 26
_THUMBNAIL_SIDE = 32
_MAX_GREY_DIFFERENCE = 8.0
# The gradient signs of an almost uniform image are noise.
_MIN_CONTRAST = 4.0
_BLOCK = 1024

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of an image: signs (256,) of its gradients, grey thumbnail (32, 32)."""

    signs: NDArray[np.bool_]
    thumbnail: NDArray[np.uint8]


# Of an image that cannot be read; it has no duplicates.
BLANK = Fingerprint(np.zeros(_HASH_SIDE**2, bool), np.zeros((_THUMBNAIL_SIDE,) * 2, np.uint8))


def fingerprint_of(image: NDArray[np.uint8]) -> Fingerprint:
    """Compute the fingerprint of an RGB image (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sizes = (_HASH_SIDE + 1, _HASH_SIDE), (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    small, thumbnail = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for size in sizes)
    # The difference hash: is each cell brighter than its right neighbour?
    return Fingerprint((small[:, :-1] > small[:, 1:]).ravel(), thumbnail.astype(np.uint8))


def fingerprints_of(images: Sequence[Path]) -> list[Fingerprint]:
    """Decode images in parallel, with progress; return their fingerprints. Raises InputError."""
    with Progress("compare images", len(images), "images") as progress:
        return read_all(
            lambda path: fingerprint_of(read_image(path)), images, "images", progress.advance
        )


def nearest_duplicates(
    first: Sequence[Fingerprint], second: Sequence[Fingerprint]
) -> list[tuple[int, int, float]]:
    """Return (i, j) for each second[j] that shows the same picture as some of `first`.

    first[i] is the most similar one; the third number is the mean difference of their grey values.
    Images without contrast are skipped.
    """
    nearest = np.zeros(len(second), int)
    smallest = np.full(len(second), np.inf)
    for i, candidates in _with_equal_signs(first, second):
        differences = _grey_differences(first[i], [second[j] for j in candidates])
        better = (differences <= _MAX_GREY_DIFFERENCE) & (differences < smallest[candidates])
        nearest[candidates[better]] = i
        smallest[candidates[better]] = differences[better]
    return [
        (int(nearest[j]), int(j), float(smallest[j])) for j in np.flatnonzero(smallest < np.inf)
    ]


def similar_groups(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Group the indices of look-alikes, also of those that are linked by a third image.

    Every index is in one group; groups are in the order of their first index.
    """
    group_of = np.arange(len(fingerprints))
    for i, candidates in _with_equal_signs(fingerprints, fingerprints):
        # Frames of a fixed camera all look alike: what is known already is not compared again.
        among = candidates[group_of[candidates] != group_of[i]]
        joined = np.append(group_of[_close_to(i, among, fingerprints)], group_of[i])
        if len(joined) > 1:
            group_of[np.isin(group_of, joined)] = joined.min()
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(group_of.tolist()):
        groups.setdefault(group, []).append(i)
    return list(groups.values())


def joined(groups: Sequence[list[int]], others: Sequence[list[int]]) -> list[list[int]]:
    """Join the `groups` that share an index with one of `others`; keeps the order of groups."""
    number_of = {i: number for number, group in enumerate(groups) for i in group}
    first = list(range(len(groups)))  # of the groups joined with each
    for other in others:
        linked = {first[number_of[i]] for i in other}
        first = [min(linked) if number in linked else number for number in first]
    result: dict[int, list[int]] = {}
    for group, number in zip(groups, first, strict=True):
        result.setdefault(number, []).extend(group)
    return list(result.values())


def distinct(fingerprints: Sequence[Fingerprint]) -> list[int]:
    """Return the indices of images that look like none of the earlier ones that are returned."""
    dropped = np.zeros(len(fingerprints), bool)
    for i, candidates in _with_equal_signs(fingerprints, fingerprints):
        if not dropped[i]:
            among = candidates[(candidates > i) & ~dropped[candidates]]
            dropped[_close_to(i, among, fingerprints)] = True
    return [i for i in range(len(fingerprints)) if not dropped[i]]


def _with_equal_signs(
    first: Sequence[Fingerprint], second: Sequence[Fingerprint]
) -> Iterator[tuple[int, Indices]]:
    """Yield each index of `first` that has contrast, and those of `second` with similar signs."""
    ours, theirs = (
        np.array([i for i, one in enumerate(group) if one.thumbnail.std() >= _MIN_CONTRAST], int)
        for group in (first, second)
    )
    if not ours.size or not theirs.size:
        return
    others = _plus_minus([second[j] for j in theirs])
    for start in range(0, len(ours), _BLOCK):
        block = ours[start : start + _BLOCK]
        # The product of +-1 vectors counts agreements minus differences.
        different = (_HASH_SIDE**2 - _plus_minus([first[i] for i in block]) @ others.T) / 2
        for i, row in zip(block.tolist(), different <= _MAX_DIFFERENT_SIGNS, strict=True):
            yield i, theirs[row]


def _plus_minus(fingerprints: Sequence[Fingerprint]) -> NDArray[np.float32]:
    signs = np.stack([fingerprint.signs for fingerprint in fingerprints])
    return np.where(signs, 1, -1).astype(np.float32)


def _close_to(i: int, among: Indices, fingerprints: Sequence[Fingerprint]) -> Indices:
    differences = _grey_differences(fingerprints[i], [fingerprints[j] for j in among])
    return among[differences <= _MAX_GREY_DIFFERENCE]


def _grey_differences(one: Fingerprint, others: Sequence[Fingerprint]) -> NDArray[np.float64]:
    """Return the mean differences of thumbnails, after their means are made equal."""
    ours = one.thumbnail - one.thumbnail.mean()
    found = [np.abs(o.thumbnail - o.thumbnail.mean() - ours).mean() for o in others]
    return np.array(found, float)
