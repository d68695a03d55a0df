"""Supervisely's shapes against OpenCV, Pillow and zlib, as its own package draws them."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

RANDOM = np.random.default_rng(11)
ALL = ("--split", "all=1")


def shape(kind: str, label: str = "road", **content: Any) -> dict[str, Any]:
    return {"id": 5, "classTitle": label, "geometryType": kind, **content}


def points(exterior: Any, interior: Any = ()) -> dict[str, Any]:
    return {"points": {"exterior": exterior, "interior": list(interior)}}


def bitmap(pixels: np.ndarray, origin: list[int], *, packed: bool = True) -> dict[str, Any]:
    """Pack as Supervisely does: a palette PNG whose colour 0 is transparent, then zlib."""
    picture = Image.fromarray(pixels.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=0)
    data = zlib.compress(file.getvalue()) if packed else file.getvalue()
    return {"bitmap": {"data": base64.b64encode(data).decode(), "origin": origin}}


def write_project(root: Path, shapes: list[Any], dataset: str = "ds", **size: Any) -> Path:
    save_images(root / dataset / "img", ["a.jpg"])
    (root / dataset / "ann").mkdir(exist_ok=True)
    rows = [{"title": title, "shape": "any", "color": "#ff0000"} for title in ("car", "road")]
    (root / "meta.json").write_text(json.dumps({"classes": rows, "tags": []}))
    content = {"size": {"height": HEIGHT, "width": WIDTH, **size}, "objects": shapes, "tags": []}
    (root / dataset / "ann/a.jpg.json").write_text(json.dumps(content))
    return root


def test_shapes_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outer = (RANDOM.uniform(0, 1, (7, 2)) * [WIDTH, HEIGHT]).round().astype(np.int32)
    hole = np.array([[8, 8], [14, 8], [12, 13]], np.int32)
    blob = RANDOM.random((5, 8)) < 0.5
    shapes = [
        shape("polygon", **points(outer.tolist(), [hole.tolist()])),
        shape("rectangle", "car", **points([[20, 9], [11, 3]])),
        shape("bitmap", **bitmap(blob, [15, 12])),
        shape("bitmap", "car", **bitmap(blob, [2, 2], packed=False)),
        shape("line", **points([[1, 1], [5, 5]])),
    ]
    root = write_project(tmp_path / "project", shapes)
    assert convert(root, tmp_path / "out", *ALL) == 0
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(expected, [outer], 2)
    cv2.fillPoly(expected, [hole], 0)
    expected[3:10, 11:21] = 1
    expected[12:17, 15:23][blob] = 2
    expected[2:7, 2:10][blob] = 1
    assert classes_of(tmp_path / "out") == ["background", "car", "road"]
    masks = masks_of(tmp_path / "out")
    assert list(masks) == ["ds/a"]
    assert np.array_equal(masks["ds/a"], expected)
    output = capsys.readouterr().out
    assert "format       supervisely (meta.json lists classes" in output
    assert "1 shapes that are not drawn (line)" in output


def test_points_are_rounded_down_and_boxes_cut_at_the_image(tmp_path: Path) -> None:
    """As supervisely 6.74 draws them: PointLocation takes the floor of its numbers."""
    outer = [[2.9, 3.5], [20.99, 4.0], [9.5, 15.7]]
    shapes = [
        shape("polygon", **points(outer)),
        shape("rectangle", "car", **points([[25.9, 18.6], [300.0, 200.0]])),
        shape("rectangle", "car", **points([[200, 200], [300, 200]])),
    ]
    root = write_project(tmp_path / "project", shapes)
    (root / "ds/ann/a.jpg.json").rename(root / "ds/ann/a.json")  # as in old projects
    assert convert(root, tmp_path / "out", *ALL) == 0
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(expected, [np.array([[2, 3], [20, 4], [9, 15]], np.int32)], 2)
    expected[18:, 25:] = 1
    assert np.array_equal(masks_of(tmp_path / "out")["ds/a"], expected)


def test_datasets_of_a_project_are_splits(tmp_path: Path) -> None:
    for dataset, label in (("train", "road"), ("val", "car")):
        square = shape("rectangle", label, **points([[2, 3], [9, 9]]))
        write_project(tmp_path / "project", [square], dataset)
    assert convert(tmp_path / "project", tmp_path / "out") == 0
    for split, value in (("train", 2), ("val", 1)):
        (mask,) = masks_of(tmp_path / "out", split).values()
        assert (mask[3:10, 2:10] == value).all()
        assert mask.sum() == 56 * value


SQUARE = points([[2, 3], [9, 9]])
BOMB = base64.b64encode(zlib.compress(bytes(2**28))).decode()
HARMFUL: dict[str, tuple[Any, str]] = {
    "two points": ([shape("polygon", **SQUARE)], "object 5: its polygon cannot be drawn"),
    "no points": ([shape("rectangle")], "object 5: its rectangle cannot be drawn"),
    "far": ([shape("rectangle", **points([[0, 0], [1e9, 1]]))], "far outside"),
    "nan": ([shape("polygon", **points([[0, 0], [float("nan"), 1], [4, 4]]))], "far outside"),
    "three numbers": (
        [shape("polygon", **points([[1, 2, 3], [4, 5, 6]]))],
        "its points are no list of x, y",
    ),
    "one corner": ([shape("rectangle", **points([[1, 2]]))], "a rectangle of 1 points"),
    "class": ([shape("rectangle", None, **SQUARE)], "object 5: expected the name of a class"),
    "bomb": (
        [shape("bitmap", bitmap={"data": BOMB, "origin": [0, 0]})],
        "object 5, its bitmap: not an image file",
    ),
    "no PNG": ([shape("bitmap", bitmap={"data": "aaaa", "origin": [0, 0]})], "not an image file"),
    "objects": ([5], "not valid supervisely"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_shapes_are_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes, expected = HARMFUL[name]
    root = write_project(tmp_path / "project", shapes)
    assert convert(root, tmp_path / "out", *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()
