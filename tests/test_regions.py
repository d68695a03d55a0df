"""Scores by the size of regions and by the distance to a boundary, against brute force."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sceneparse.metrics.regions import DISTANCES, RegionCounts, distance_names

IGNORED, CLASSES = 255, 3
Mask = NDArray[np.uint8]


def blobs(seed: int) -> tuple[Mask, Mask]:
    """Return a truth with regions of all sizes and an ignored strip, and a prediction."""
    random = np.random.default_rng(seed)
    truth = np.zeros((140, 150), np.uint8)
    truth[5:115, 5:125] = 1
    truth[120:135, 5:60] = 2
    for _ in range(12):
        y, x = random.integers(0, 130, 2)
        truth[y : y + random.integers(1, 12), x : x + random.integers(1, 12)] = random.integers(3)
    truth[8:10] = IGNORED
    wrong = random.integers(0, CLASSES, truth.shape).astype(np.uint8)
    return truth, np.where(random.random(truth.shape) < 0.7, truth % 250, wrong)


def regions_of(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Find connected pixels by walking from neighbour to neighbour."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        walk = [left.pop()]
        for y, x in walk:
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            walk += near
        found.append(walk)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_scores_by_size_are_those_of_brute_force(seed: int) -> None:
    truth, labels = blobs(seed)
    counts = RegionCounts(CLASSES, IGNORED)
    counts.update(torch.tensor(labels)[None], torch.tensor(truth)[None])
    expected: NDArray[Any] = np.zeros((4, 3, CLASSES), np.int64)
    for k in range(CLASSES):
        for region in regions_of(truth == k):
            size = 0 if len(region) < 1024 else 1 if len(region) < 9216 else 2
            right = sum(labels[place] == k for place in region)
            expected[:, size, k] += [len(region), right, 1, right >= len(region) / 2]
    assert (expected[2].sum(axis=1) > 0).all()
    assert np.array_equal(counts.by_size.numpy(), expected)


def test_accuracy_by_distance_is_that_of_brute_force() -> None:
    truth, labels = (mask[:70, :60] for mask in blobs(7))
    counts = RegionCounts(CLASSES, IGNORED)
    counts.update(torch.tensor(labels)[None], torch.tensor(truth)[None])
    expected: NDArray[Any] = np.zeros((2, len(DISTANCES) + 1, CLASSES), np.int64)
    for k in range(CLASSES):
        outside = np.argwhere(truth != k)
        for y, x in np.argwhere(truth == k):
            distance = np.sqrt(((outside - (y, x)) ** 2).sum(axis=1).min())
            band = sum(distance > end for end in DISTANCES)
            expected[:, band, k] += [1, labels[y, x] == k]
    assert np.array_equal(counts.by_distance.numpy(), expected)


def test_a_class_that_fills_the_image_is_far_from_boundaries() -> None:
    whole = torch.ones(1, 50, 60, dtype=torch.uint8)
    counts = RegionCounts(CLASSES, IGNORED)
    counts.update(whole, whole)
    assert counts.by_distance[:, :, 1].tolist() == [[0, 0, 0, 0, 3000]] * 2
    assert counts.region_recall()[:, 1].tolist()[1] == 1
    assert len(distance_names()) == len(DISTANCES) + 1
    assert cv2.__version__  # which measures the distances
