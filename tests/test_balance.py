"""Class weights against the formulas of their papers; counts are kept between runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sceneparse.data.balance import class_weights, count_pixels
from sceneparse.data.datasets import create_dataset
from sceneparse.errors import InputError


def test_rules_by_hand() -> None:
    counts = np.array([[500, 0, 0, 0], [100, 90, 10, 0]])
    # frequencies 600 of 700 pixels, 90 and 10 of 200; their median is the second
    expected = [0.45 / (600 / 700), 1, 0.45 / 0.05, 0]
    assert class_weights("median_frequency", counts) == pytest.approx(expected)
    shares = [600 / 700, 90 / 700, 10 / 700, 0]
    assert class_weights("enet", counts) == pytest.approx([1 / math.log(1.02 + p) for p in shares])


def test_counts_of_the_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part in ("images", "labels"):
        (tmp_path / "train" / part).mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    masks = [[[0, 0, 1], [255, 255, 1]], [[1, 1, 1], [1, 255, 1]]]
    for i, mask in enumerate(masks):
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / f"train/images/{i}.png")
        Image.fromarray(np.array(mask, np.uint8)).save(tmp_path / f"train/labels/{i}.png")
    dataset = create_dataset("folder", tmp_path, "train")
    for _ in range(2):
        assert count_pixels(dataset).tolist() == [[2, 2, 0], [0, 5, 0]]
    assert len(logged) == 1
    # a changed mask is counted anew
    Image.fromarray(np.full((2, 3), 2, np.uint8)).save(tmp_path / "train/labels/0.png")
    changed = create_dataset("folder", tmp_path, "train")
    assert count_pixels(changed).tolist() == [[0, 0, 6], [0, 5, 0]]
    Image.fromarray(np.full((2, 3), 9, np.uint8)).save(tmp_path / "train/labels/0.png")
    with pytest.raises(InputError, match=r"0\.png: .*9"):
        count_pixels(create_dataset("folder", tmp_path, "train"))
