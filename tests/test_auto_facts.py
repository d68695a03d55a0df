"""Counts, widths of regions against shapes of known width, and classes that have sides."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sceneparse.auto.facts import facts_of, sample_count
from sceneparse.auto.sides import Place, places, sided_classes
from sceneparse.auto.widths import middle_width, region_widths
from sceneparse.data.datasets import create_dataset
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError

IGNORE = 255


def canvas(height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    return np.zeros((height, width), np.uint8)


def width_of(mask: NDArray[np.uint8], label: int = 1) -> float:
    found = middle_width([region_widths(mask, label, IGNORE)])
    assert found is not None
    return found


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 12, 20])
def test_a_bar_through_the_image_has_its_width(width: int) -> None:
    mask = canvas()
    mask[:, 50 : 50 + width] = 1
    assert width_of(mask) == pytest.approx(width, abs=1e-6)


def brute_force(inside: NDArray[np.bool_], fine: int = 8) -> float:
    """Return four times the mean distance of points in pixels to points outside of them."""
    doubled = np.pad(inside, 1).repeat(fine, 0).repeat(fine, 1)
    points, others = np.argwhere(doubled)[::7], np.argwhere(~doubled)
    distances = [np.sqrt(((others - point) ** 2).sum(1).min()) for point in points]
    return 4 * (float(np.mean(distances)) - 0.5) / fine


def test_discs_and_slanted_bars_agree_with_a_brute_force() -> None:
    shapes = {
        "disc": cv2.circle(canvas(24, 24), (12, 12), 8, 1, -1),
        "bar": cv2.line(canvas(24, 24), (4, 3), (19, 21), 1, 3),
        "box": cv2.rectangle(canvas(24, 24), (4, 4), (17, 9), 1, -1),
    }
    for name, mask in shapes.items():
        # Points are taken at the middle of finer pixels here, of halves there.
        assert width_of(np.pad(mask, 1)) == pytest.approx(brute_force(mask > 0), rel=0.12), name


def test_a_disc_has_two_thirds_of_its_diameter_and_regions_count_by_their_pixels() -> None:
    yy, xx = np.mgrid[:200, :200] + 0.5
    mask = ((yy - 100) ** 2 + (xx - 100) ** 2 < 60**2).astype(np.uint8)
    assert width_of(mask) == pytest.approx(2 / 3 * 120, rel=0.02)
    mask[:, 2:4] = 1  # a thin bar of fewer pixels changes nothing
    assert width_of(mask) == pytest.approx(2 / 3 * 120, rel=0.02)


def test_the_edge_of_the_image_is_no_border_nor_are_ignored_pixels() -> None:
    mask = canvas()
    mask[40:50] = 1
    mask[40:50, 100:] = IGNORE
    assert width_of(mask) == pytest.approx(10)
    whole = np.ones((60, 90), np.uint8)
    assert width_of(whole) == 60  # no more than the image
    # An outline of ignored pixels, as Pascal VOC draws it, does not widen what it surrounds.
    outlined = canvas()
    outlined[10:110, 45:58] = IGNORE
    outlined[15:105, 50:53] = 1
    assert width_of(outlined) == pytest.approx(3, rel=0.05)


def test_a_class_that_is_absent_has_no_width() -> None:
    assert middle_width([region_widths(canvas(), 1, IGNORE)]) is None
    assert middle_width([]) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("left lane", "right lane"), ("Left_Lung", "Right_Lung"), ("lung_l", "lung_r")),
        *(("LungL", "LungR"), ("Spur links", "Spur rechts"), ("main gauche", "main droite")),
        *(
            ("lefteye", "righteye"),
            ("L", "R"),
            ("左手", "右手"),
            ("mano izquierda", "mano derecha"),
        ),
    ],
)
def test_names_of_sides_are_found(first: str, second: str) -> None:
    pairs, reason = sided_classes(["road", first, second], [])
    assert pairs == ((first, second),)
    assert first in reason
    assert "words for left and right" in reason


def test_other_names_have_no_side() -> None:
    names = ["road", "bright", "leftover", "car", "cart", "lane 1", "lane 2", "wall", "rail"]
    pairs, reason = sided_classes(names, [])
    assert pairs == ()
    assert "0 training images" in reason


def scenes(random: np.random.Generator, count: int, *, fixed: bool) -> list[dict[int, Place]]:
    """Return places of two equal regions, one left and one right; on random sides unless fixed."""
    found = []
    for _ in range(count):
        x = random.uniform(0.2, 0.3)
        sides = (x, 1 - x) if fixed or random.random() < 0.5 else (1 - x, x)
        found.append({0: Place(500, 0.5, 0.5), 1: Place(90, sides[0], 0.5)})
        found[-1][2] = Place(int(random.uniform(80, 100)), sides[1], 0.52)
    return found


def test_content_shows_sides_only_with_enough_images_that_agree() -> None:
    random = np.random.default_rng(0)
    names = ["body", "lung one", "lung two"]
    assert sided_classes(names, scenes(random, 8, fixed=True))[0] == (("lung one", "lung two"),)
    assert sided_classes(names, scenes(random, 7, fixed=True))[0] == ()
    assert sided_classes(names, scenes(random, 30, fixed=False))[0] == ()


def test_places_are_centres() -> None:
    mask = canvas(100, 200)
    mask[20:40, 100:200] = 3
    mask[:10] = IGNORE
    place = places(mask, 4)[3]
    assert place == Place(2000, pytest.approx(0.75, abs=0.01), pytest.approx(0.3, abs=0.01))
    assert set(places(mask, 4)) == {0, 3}


def test_facts_of_scenes_are_those_of_their_masks(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 9, "val": 3}, size=(64, 96))
    train, val = (create_dataset("folder", tmp_path / "data", split) for split in ("train", "val"))
    seen: list[None] = []
    facts = facts_of(train, val, lambda: seen.append(None))
    masks = [train[i][1] for i in range(9)]
    expected = np.stack([np.bincount(mask.ravel(), minlength=256)[:9] for mask in masks])
    assert facts.pixels == tuple(expected.sum(0).tolist())
    assert facts.images == tuple((expected > 0).sum(0).tolist())
    assert (facts.train_images, facts.val_images, facts.looked_at, len(seen)) == (9, 3, 9, 12)
    assert facts.sizes == ((64, 96),) * 3
    assert facts.sided == ()
    width = dict(zip(facts.names, facts.widths, strict=True))
    assert width["pole"] is not None
    assert width["road"] is not None
    assert width["pole"] < 6 < width["road"]
    assert all((w is None) == (n == 0) for w, n in zip(facts.widths, facts.images, strict=True))


def written(root: Path, split: str, masks: list[NDArray[np.uint8]], first: int = 0) -> None:
    for number, mask in enumerate(masks):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(first + number).integers(0, 255, (6, 6, 3), np.uint8)
        image = Image.fromarray(small).resize(mask.shape[::-1])
        image.save(root / split / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / split / "labels" / f"{number}.png")
    (root / "classes.txt").write_text("a\nb\nc\n", "utf-8")


def test_twins_duplicates_and_absent_classes_are_named(tmp_path: Path) -> None:
    mask = canvas(40, 60)
    mask[:, 30:] = 1
    mask[:4] = IGNORE
    written(tmp_path, "train", [mask] * 4)
    written(tmp_path, "val", [mask + (mask == 1)] * 2, first=3)  # of class 2; the first is a twin
    copy = tmp_path / "train" / "images" / "1.png"
    Image.open(tmp_path / "train" / "images" / "0.png").save(copy)
    train, val = (create_dataset("folder", tmp_path, split) for split in ("train", "val"))
    facts = facts_of(train, val, lambda: None)
    assert (facts.duplicates, facts.twins) == (2, 1)
    assert facts.ignored == pytest.approx(0.1)
    text = " ".join(facts.notes)
    assert "No training image shows 'c'" in text
    assert "No validation image shows 'b'" in text
    assert "1 validation images look like a training image" in text
    assert facts.widths[2] is None


def test_data_that_training_would_refuse_are_refused(tmp_path: Path) -> None:
    mask = canvas(40, 60)
    mask[:, 30:] = 1
    for name, train, val, message in (
        ("void", mask * 0 + 255, mask, "train: every pixel of the masks is ignored"),
        ("empty", mask, mask * 0 + 255, "val: every pixel of the masks is ignored"),
        ("one", mask * 0, mask, "one class only, 'a'"),
        ("foreign", mask * 9, mask, "label values outside the table"),
    ):
        root = tmp_path / name
        written(root, "train", [train] * 2)
        written(root, "val", [val] * 2, first=5)
        splits = (create_dataset("folder", root, split) for split in ("train", "val"))
        with pytest.raises(InputError, match=message):
            facts_of(*splits, lambda: None)


def test_of_many_images_an_even_sample_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sceneparse.auto.facts._MIN_SAMPLES", 3)
    monkeypatch.setattr("sceneparse.auto.facts._MAX_SAMPLES", 3)
    write_dataset(tmp_path / "data", {"train": 9, "val": 2}, size=(48, 64))
    train, val = (create_dataset("folder", tmp_path / "data", split) for split in ("train", "val"))
    facts = facts_of(train, val, lambda: None)
    expected = [np.bincount(train.mask(i).ravel(), minlength=256)[:9] for i in (0, 4, 8)]
    assert facts.pixels == tuple(np.sum(expected, 0).tolist())
    assert (facts.looked_at, facts.train_images, sample_count(train, val)) == (3, 9, 5)
    assert "3 of 9 training images were looked at, evenly spread" in facts.notes[0]
