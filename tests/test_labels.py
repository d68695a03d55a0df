"""Label tables: the official facts, and mapping forth and back."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from sceneparse.data.datasets import DATASETS
from sceneparse.data.labels import (
    folder_table,
    identity_table,
    load_label_table,
    palette,
    palette_color,
)
from sceneparse.data.labels.palette import is_background
from sceneparse.errors import InputError

TABLES = sorted(set(DATASETS) - {"folder"})
NUM_CLASSES = {
    "camvid": 11,
    "cityscapes": 19,
    "ade20k": 150,
    "pascal_context_59": 59,
    "pascal_context_60": 60,
}


@pytest.mark.parametrize("name", TABLES)
def test_table_maps_every_raw_id_and_back(name: str) -> None:
    table = load_label_table(name)
    assert table.num_classes == len(table.names) == len(table.colors) == NUM_CLASSES[name]
    raw = np.array([[label.raw_id for label in table.labels]], dtype=np.uint8)
    train_ids = table.encode(raw)
    ignored = np.array([[label.train_id is None for label in table.labels]])
    assert train_ids.dtype == np.uint8
    assert (train_ids[ignored] == 255).all()
    assert set(train_ids[~ignored]) == set(range(table.num_classes))
    np.testing.assert_array_equal(table.decode(train_ids[~ignored]), raw[~ignored])


@pytest.mark.fault(17)
def test_label_ids_of_cityscapes_are_recognised() -> None:
    official = load_label_table("cityscapes")
    table = identity_table(official.names, official.colors)
    with pytest.raises(InputError, match=r"outside the table: 26 .* data\.dataset: cityscapes"):
        table.encode(np.array([[7, 26]], np.uint8))
    with pytest.raises(InputError, match=r"valid are 20 values in 0\.\.255$"):
        table.encode(np.array([[7, 126]], np.uint8))


def test_cityscapes_is_the_official_table(shared: Path) -> None:
    table = {label.raw_id: label for label in load_label_table("cityscapes").labels}
    with (shared / "data/cityscapes/cityscapes_labels.csv").open() as file:
        for row in csv.DictReader(file):
            label = table[int(row["id"]) % 256]
            train_id = None if row["trainId"] in {"-1", "255"} else int(row["trainId"])
            assert (label.name, label.train_id) == (row["name"], train_id)
            assert label.color == (int(row["r"]), int(row["g"]), int(row["b"]))


def test_ade20k_and_camvid_are_the_official_tables(shared: Path) -> None:
    ade = shared / "data/ade20k"
    table = load_label_table("ade20k")
    assert table.names == (ade / "ade20k_names.txt").read_text().splitlines()
    colors = [tuple(map(int, line.split())) for line in (ade / "ade20k_colors.txt").open()]
    assert table.colors == colors
    camvid = folder_table(shared / "data/camvid", None)
    assert (camvid.names, camvid.colors) == (
        load_label_table("camvid").names,
        load_label_table("camvid").colors,
    )


@pytest.mark.fault(15, 19)
def test_values_outside_the_table_are_counted() -> None:
    mask = np.zeros((4, 5), dtype=np.uint8)
    mask[0, :3], mask[1, 0] = 200, 151
    with pytest.raises(InputError, match=r"151 \(1 px\), 200 \(3 px\)"):
        load_label_table("ade20k").encode(mask)


@pytest.mark.fault(35)
def test_over_255_classes_take_16_bits() -> None:
    names = [f"class {index}" for index in range(300)]
    table = identity_table(names, [palette_color(index) for index in range(300)])
    raw = np.array([[0, 255, 299, 65535]], dtype=np.uint16)
    assert table.encode(raw).tolist() == raw.tolist()
    assert table.ignore_index == 65535


def test_no_two_classes_share_a_colour() -> None:
    for count in (2, 150, 1000, 65535):
        names = ["background", *(f"class {k}" for k in range(count - 2)), "void"]
        colors = palette(names)
        assert len(set(colors)) == count
        assert colors[0] == (0, 0, 0)
    assert (0, 0, 0) not in palette([f"class {k}" for k in range(1000)])
    assert palette(["road", "car", "bg"]) == [palette_color(0), palette_color(1), (0, 0, 0)]


# Viénot, Brettel and Mollon, 1999: RGB to LMS, and what remains without L or M cones.
TO_LMS = np.array(
    [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
)
BLIND = {
    "normal": np.eye(3),
    "protanopia": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
    "deuteranopia": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
}


LEAST = {"normal": 25, "protanopia": 9, "deuteranopia": 9}


@pytest.mark.parametrize("eyes", BLIND)
def test_first_colours_are_told_apart_by_all_eyes(eyes: str) -> None:
    colors = np.array([palette_color(k) for k in range(8)], dtype=np.float64) / 255
    linear = np.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    seen = linear @ TO_LMS.T @ BLIND[eyes].T @ np.linalg.inv(TO_LMS).T
    seen = np.clip(seen, 0, 1)
    seen = np.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, 12.92 * seen)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(len(lab))
    assert apart.min() > LEAST[eyes]  # 2.3 is just noticeable


def test_neighbours_of_the_palette_are_distinct() -> None:
    colors = np.array([palette_color(k) for k in range(150)], dtype=np.float32) / 255
    lab = cv2.cvtColor(colors[None], cv2.COLOR_RGB2Lab)[0]
    assert np.linalg.norm(np.diff(lab, axis=0), axis=1).min() > 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("background", "_background_", "Background", "bg", "void")),
        *((name, True) for name in ("other", "Others", "__ignore__", "clutter/background")),
        *((name, False) for name in ("road", "backgrounds of doors", "other vehicle", "voids")),
    ],
)
def test_backgrounds_are_known_by_their_names(name: str, expected: bool) -> None:
    assert is_background(name) == expected


def test_folder_without_class_names_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"classes\.txt is missing: write one class name"):
        folder_table(tmp_path, None)
    with pytest.raises(InputError, match=r"sceneparse convert '.*/my data' NEW_FOLDER$"):
        folder_table(tmp_path / "my data", None)


def test_classes_of_equal_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("road\nsky\nroad \n")
    with pytest.raises(InputError, match="class names occur twice: road; give each class its own"):
        folder_table(tmp_path, None)
