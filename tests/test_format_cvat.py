"""CVAT's XML: every shape against pycocotools and OpenCV, as CVAT's own mask export uses them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

RANDOM = np.random.default_rng(5)
ALL = ("--split", "all=1")
HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><job><labels>
    <label><name>road</name><color>#aabbcc</color><type>any</type></label>
    <label><name>car</name></label>
    <label><name>void</name></label>
  </labels></job></meta>
"""


def write_cvat(path: Path, *images: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """Write an XML file of images a.jpg, b.jpg, ... with these shapes; `size` is stated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        f'<image id="{k}" name="{name}.jpg" height="{size[0]}" width="{size[1]}">{shapes}</image>'
        for k, (name, shapes) in enumerate(zip("abc", images, strict=False))
    ]
    path.write_text(HEAD + "\n".join(entries) + "</annotations>")
    return path


def polygon(points: NDArray, label: str = "road", z: int = 0) -> str:
    text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polygon label="{label}" source="manual" points="{text}" z_order="{z}"></polygon>'


def drawn(points: NDArray, decimals: int = 2) -> NDArray[np.bool_]:
    rle = coco.merge(coco.frPyObjects([points.round(decimals).ravel().tolist()], HEIGHT, WIDTH))
    return coco.decode(rle).astype(bool)


def test_shapes_in_z_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_images(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    points = [RANDOM.uniform(0, 1, (5, 2)) * [WIDTH, HEIGHT] for _ in range(3)]
    blob = RANDOM.random((6, 9)) < 0.5
    flat = blob.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    rle = ", ".join(map(str, np.diff(np.concatenate([[0], edges])).tolist()))
    shapes = (
        polygon(points[0], "car", z=2)
        + polygon(points[1], "void", z=1)
        + polygon(points[2])
        + f'<mask label="car" rle="{rle}" left="3" top="4" width="9" height="6" z_order="3"/>'
        + '<polyline label="road" points="1,2;3,4"/><points label="car" points="1,2"/>'
        + '<tag label="car"/>'
    )
    boxes = (
        '<box label="road" xtl="2.00" ytl="3.00" xbr="12.00" ybr="9.00"/>'
        '<box label="car" xtl="15" ytl="8" xbr="27" ybr="14" rotation="30.0"/>'
    )
    ellipse = '<ellipse label="car" cx="15.40" cy="11.60" rx="8.20" ry="4.70" rotation="20.00"/>'
    path = write_cvat(tmp_path / "annotations.xml", shapes, boxes, ellipse)
    for source in (path, tmp_path):
        target = tmp_path / f"out {source.name}"
        assert convert(source, target, *ALL) == 0
        assert classes_of(target) == ["background", "road", "car"]
        masks = masks_of(target)
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[drawn(points[2])] = 1
        expected[drawn(points[1])] = 255
        expected[drawn(points[0])] = 2
        expected[4:10, 3:12][blob] = 2
        assert np.array_equal(masks["a"], expected)
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[3:9, 2:12] = 1
        turned = 21 + 11j + np.array([-6 - 3j, 6 - 3j, 6 + 3j, -6 + 3j]) * np.exp(1j * np.pi / 6)
        expected[drawn(np.stack([turned.real, turned.imag], 1), decimals=15)] = 2
        assert np.array_equal(masks["b"], expected)
        expected = cv2.ellipse(
            np.zeros((HEIGHT, WIDTH), np.uint8), (15, 12), (8, 5), 20, 0, 360, 2, thickness=-1
        )
        assert np.array_equal(masks["c"], expected)
        assert "1 shapes without area (polyline)" in capsys.readouterr().out


def test_subsets_of_a_project_are_splits(tmp_path: Path) -> None:
    save_images(tmp_path / "images", ["Train/a.jpg", "Validation/a.jpg"])
    entries = [
        f'<image id="{k}" name="a.jpg" subset="{subset}" width="{WIDTH}" height="{HEIGHT}">'
        f'<box label="{label}" xtl="2" ytl="3" xbr="12" ybr="9"/></image>'
        for k, (subset, label) in enumerate((("Train", "road"), ("Validation", "car")))
    ]
    path = tmp_path / "annotations.xml"
    path.write_text(HEAD + "".join(entries) + "</annotations>")
    assert convert(path, tmp_path / "out") == 0
    assert masks_of(tmp_path / "out", "train")["Train/a"].max() == 1
    assert masks_of(tmp_path / "out", "val")["Validation/a"].max() == 2


BOX = '<box label="road" xtl="2" ytl="3" xbr="12" ybr="9"/>'
HARMFUL = {
    "no number": ('<box label="road" xtl="x" ytl="3" xbr="12" ybr="9"/>', "could not convert"),
    "key": ('<box label="road" xtl="1" ytl="3" xbr="12"/>', "'ybr' is missing"),
    "far": ('<box label="road" xtl="1" ytl="3" xbr="1e9" ybr="9"/>', "far outside"),
    "nan": ('<ellipse label="car" cx="nan" cy="1" rx="8" ry="4"/>', "far outside"),
    "two points": ('<polygon label="road" points="1,2;3,4"/>', "a polygon of 2 points"),
    "runs": (
        '<mask label="car" rle="5, 900" left="0" top="0" width="3" height="3"/>',
        "runs of 905 pixels for a box of 3x3",
    ),
    "outside": ('<mask label="car" rle="5" left="30" top="0" width="3" height="3"/>', "outside"),
    "z order": ('<box label="road" z_order="top"/>', "cannot be drawn"),
    "tracks": (BOX + '</image><track id="0"></track><image name="b.jpg">', "CVAT for images 1.1"),
    "no XML": ("<box>", "cannot be read as XML"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_shapes_are_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes, expected = HARMFUL[name]
    save_images(tmp_path / "images", ["a.jpg"])
    assert convert(write_cvat(tmp_path / "a.xml", shapes), tmp_path / "out", *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_harmful_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_images(tmp_path / "images", ["a.jpg"])
    path = write_cvat(tmp_path / "a.xml", BOX, size=(10**6, 10**6))
    assert convert(path, tmp_path / "out", *ALL) == 2
    assert "no image is of 1000000x1000000" in capsys.readouterr().err
    bomb = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    path.write_text(f'<!DOCTYPE x [<!ENTITY a0 "a">{bomb}]>' + HEAD + "&a9;</annotations>")
    assert convert(path, tmp_path / "out", "--as", "cvat", *ALL) == 2
    assert "it defines entities, which CVAT never writes" in capsys.readouterr().err
