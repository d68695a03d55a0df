"""Class weights against the formulas of their papers; counts are kept between runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sceneparse.cli import train as train_command
from sceneparse.data.balance import class_weights, count_pixels, log_weights
from sceneparse.data.datasets import create_dataset
from sceneparse.errors import InputError
from sceneparse.runs.checkpoint import SUM_FILE, sum_line
from tests.test_train_seg import QUICKSTART, call, folder_of


def test_rules_by_hand() -> None:
    counts = np.array([[500, 0, 0, 0], [100, 90, 10, 0]])
    # frequencies 600 of 700 pixels, 90 and 10 of 200; their median is the second
    expected = [0.45 / (600 / 700), 1, 0.45 / 0.05, 0]
    assert class_weights("median_frequency", counts) == pytest.approx(expected)
    shares = [600 / 700, 90 / 700, 10 / 700, 0]
    assert class_weights("enet", counts) == pytest.approx([1 / math.log(1.02 + p) for p in shares])


def test_damped_rule_by_hand() -> None:
    counts = np.array([[500, 0, 0, 0], [100, 90, 10, 0]])
    # the weights of median_frequency, see above
    rough = [(0.45 / frequency) ** 0.5 for frequency in (600 / 700, 0.45, 0.05)]
    mean = (600 * rough[0] + 90 * rough[1] + 10 * rough[2]) / 700
    assert class_weights("damped", counts) == pytest.approx([*(w / mean for w in rough), 0])


def test_field_of_soil_gets_mild_weights() -> None:
    """Soil 92.7%, crop 1.6%, weed 5.7%, all in every image: a ratio of 58 becomes 7.6."""
    shares = np.array([[927, 16, 57]])
    soil, crop, weed = class_weights("damped", shares)
    assert crop / soil == pytest.approx((927 / 16) ** 0.5)
    assert weed / soil == pytest.approx((927 / 57) ** 0.5)
    assert (927 * soil + 16 * crop + 57 * weed) / 1000 == pytest.approx(1)


def test_range_is_logged_and_explained_if_wide(logged: list[str]) -> None:
    log_weights(["a", "b", "c"], [0.5, 2.0, 0.0], "enet")
    assert logged == [
        "class weights (enet), the largest 4 times the smallest: a 0.5, b 2, c 0",
        "weight 0, so without influence on the loss: c",
    ]
    logged.clear()
    log_weights(["a", "b"], [0.5, 10.0], "given")
    assert len(logged) == 1
    log_weights(["a", "b"], [0.5, 10.5], "given")
    assert "the largest class weight is 21 times the smallest" in logged[-1]


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


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.backbone=resnet999", "similar names: resnet"),
        ("model.pretrained=nothing.pth", "weights file 'nothing.pth' does not exist"),
        ("model.pretrained=runs/nothing", "'runs/nothing' does not exist; give a run folder"),
        ("augment.crop=[8,8] train.batch_size=1", "cannot train on 1 crops of 8x8"),
        ("loss.class_weights=[1.0,2.0]", "has 2 numbers, the dataset has 9 classes"),
    ],
)
def test_what_is_quickly_found_wrong_is_found_before_masks_are_counted(
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    expected: str,
) -> None:
    monkeypatch.setattr("sceneparse.training.segmentation.count_pixels", pytest.fail)
    command = ["--config", QUICKSTART, *tiny, "loss.class_weights=auto", *override.split()]
    assert call(train_command, *command) == 2
    assert expected in capsys.readouterr().err


def test_resumed_run_keeps_the_rule_it_began_with(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["--config", QUICKSTART, *tiny, "train.epochs=1", "loss.class_weights=auto"]
    assert call(train_command, *command) == 0
    assert any(line.startswith("class weights (damped), ") for line in logged)
    logged.clear()
    # as checkpoints were before that rule
    for path in (folder_of(tiny) / "checkpoints").glob("*/meta.json"):
        meta = json.loads(path.read_text())
        assert meta.pop("auto_class_weights") == "damped"
        path.write_text(json.dumps(meta))
        (path.parent / SUM_FILE).write_text(sum_line(path.parent))
    assert call(train_command, *command, "--resume") == 0
    assert any(line.startswith("class weights (median_frequency), ") for line in logged)
