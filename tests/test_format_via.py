"""VIA's regions become masks: polygons as pycocotools draws them, ellipses by pixel centres."""

from __future__ import annotations

import csv
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from sceneparse.data.formats import find_format
from sceneparse.data.formats.shared.canvas import Canvas
from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

RANDOM = np.random.default_rng(7)
ALL = ("--split", "all=1")
RECT = {"name": "rect", "x": 2, "y": 3, "width": 10, "height": 5}
TRIANGLE = {"name": "polygon", "all_points_x": [3, 25, 9], "all_points_y": [2, 4, 20]}
CIRCLE = {"name": "circle", "cx": 22, "cy": 14, "r": 6.4}
ELLIPSE = {"name": "ellipse", "cx": 15.5, "cy": 12, "rx": 9, "ry": 3.5, "theta": 0.6}
POINT, LINE = {"name": "point", "cx": 5, "cy": 5}, {**TRIANGLE, "name": "polyline"}


def region(shape: Any = TRIANGLE, value: Any = "cat", **attributes: Any) -> dict[str, Any]:
    given = {} if value is None else {"class": value}
    return {"shape_attributes": shape, "region_attributes": {**given, **attributes}}


def entry(regions: Any, name: str = "a.jpg") -> dict[str, Any]:
    return {"filename": name, "size": 999, "regions": regions, "file_attributes": {}}


def write_json(path: Path, regions: Any, *, project: bool = False) -> Path:
    """Write a file of two images; the second has no regions."""
    entries = {"a.jpg999": entry(regions), "b.jpg999": entry([], "b.jpg")}
    content = {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}}
    path.write_text(json.dumps(content if project else entries))
    return path


def write_csv(path: Path, regions: Any, first: str = "filename") -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        file.write(f"{first},file_size,file_attributes,region_count,region_id,")
        file.write("region_shape_attributes,region_attributes\n")
        for number, one in enumerate(regions):
            cells = [json.dumps(one[f"{key}_attributes"]) for key in ("shape", "region")]
            table.writerow(["a.jpg", 999, "{}", len(regions), number, *cells])
        table.writerow(["b.jpg", 999, "{}", 0, 0, "{}", "{}"])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_images(tmp_path / "in", ["a.jpg", "b.jpg"])


def inside(x: float, y: float, rx: float, ry: float, theta: float) -> NDArray[np.bool_]:
    """Test every pixel by itself: is its centre in the ellipse?"""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            offset = complex(column + 0.5 - x, row + 0.5 - y) * complex(
                math.cos(theta), -math.sin(theta)
            )
            mask[row, column] = (offset.real / rx) ** 2 + (offset.imag / ry) ** 2 <= 1
    return mask


def drawn(shape: dict[str, Any]) -> NDArray[np.bool_]:
    if shape["name"] == "circle":
        return inside(shape["cx"], shape["cy"], shape["r"], shape["r"], 0)
    if shape["name"] == "ellipse":
        return inside(*(shape[key] for key in ("cx", "cy", "rx", "ry")), shape.get("theta", 0))
    if shape["name"] == "rect":
        x, y, width, height = (shape[key] for key in ("x", "y", "width", "height"))
        points = [x, y, x + width, y, x + width, y + height, x, y + height]
    else:
        pairs = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
        points = [value for pair in pairs for value in pair]
    runs = coco.frPyObjects([[float(value) for value in points]], HEIGHT, WIDTH)
    return coco.decode(coco.merge(runs)).astype(bool)


def test_ellipses_hold_the_pixels_whose_centre_is_inside() -> None:
    for _ in range(60):
        x, y = RANDOM.uniform(-10, 40, 2)
        rx, ry = RANDOM.uniform(0.2, 25, 2)
        theta = RANDOM.uniform(-4, 4)
        canvas = Canvas(HEIGHT, WIDTH, 0)
        canvas.ellipse(x, y, (rx, ry), theta, 1)
        assert np.array_equal(canvas.mask, inside(x, y, rx, ry, theta))


def test_regions_are_cut_at_the_borders() -> None:
    for _ in range(60):
        height, width = (int(side) for side in RANDOM.integers(1, 40, 2))
        left, top = (int(side) for side in RANDOM.integers(-45, 35, 2))
        pixels = RANDOM.random((height, width)) < 0.6
        canvas = Canvas(HEIGHT, WIDTH, 0)
        canvas.region(pixels, left, top, 1)
        expected = np.zeros((HEIGHT + 100, WIDTH + 100), np.uint8)
        expected[50 + top : 50 + top + height, 50 + left : 50 + left + width] = pixels
        assert np.array_equal(canvas.mask, expected[50:-50, 50:-50])


REGIONS = [region(), region(CIRCLE, "dog"), region(RECT, " dog "), region(ELLIPSE, "__ignore__")]
WRITERS: dict[str, Callable[[Path], Path]] = {
    "export of version 2": lambda path: write_json(path / "via.json", REGIONS),
    "project": lambda path: write_json(path / "via.json", REGIONS, project=True),
    "export of version 1": lambda path: write_json(
        path / "via.json", {str(i): one for i, one in enumerate(REGIONS)}
    ),
    "table of version 2": lambda path: write_csv(path / "via.csv", REGIONS),
    "table of version 1": lambda path: write_csv(path / "via.csv", REGIONS, "#filename"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_all_versions(name: str, folder: Path, tmp_path: Path) -> None:
    path = WRITERS[name](folder)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels = (1, 2, 2, 255)
    for shape, label in zip((TRIANGLE, CIRCLE, RECT, ELLIPSE), labels, strict=True):
        expected[drawn(shape)] = label
    for source in (folder, path):
        assert find_format(source)[0].name == "via"
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert convert(source, tmp_path / "out", *ALL) == 0
        assert classes_of(tmp_path / "out") == ["background", "cat", "dog"]
        masks = masks_of(tmp_path / "out")
        assert np.array_equal(masks["a"], expected)
        assert not masks["b"].any()


def test_what_is_skipped_and_noted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = [{**RECT, "width": 0}, {**CIRCLE, "r": 0}, {**TRIANGLE, "all_points_x": [3, 4]}]
    flat[2]["all_points_y"] = [3, 4]
    shapes = [POINT, LINE, *flat, TRIANGLE]
    regions = [*(region(shape) for shape in shapes), region(RECT, None), region(RECT, "")]
    write_json(folder / "via.json", regions)
    assert convert(folder, tmp_path / "out", *ALL) == 0
    output = capsys.readouterr().out
    for line in (
        "note         the class of a region is its attribute 'class'",
        "note         1 images have no regions: all their pixels are background",
        f"1 points, which have no area, e.g. {folder / 'via.json'}: a.jpg, region 0",
        "1 polylines, which have no area",
        "1 rects without area",
        "1 circles without area",
        "1 polygons without area",
        "2 regions without 'class'",
    ):
        assert line in output
    assert np.array_equal(masks_of(tmp_path / "out")["a"], drawn(TRIANGLE))


def test_the_attribute_that_names_the_classes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(
        folder / "via.json",
        [
            region(value={"cat": True, "dog": False}, quality="good", comment=""),
            region(RECT, {"dog": True}, quality="bad"),
        ],
    )
    assert convert(folder, tmp_path / "out", *ALL) == 2
    assert "2 attributes, class (cat, dog); quality (bad, good); give --classes with" in (
        capsys.readouterr().err
    )
    names = tmp_path / "names.txt"
    for text, values in (("dog\ncat\n", [2, 1]), ("cat\ngood = __ignore__\nbad = cat", [255, 1])):
        names.write_text(text)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert convert(folder, tmp_path / "out", "--classes", names, *ALL) == 0
        mask = masks_of(tmp_path / "out")["a"]
        assert [mask[15, 10], mask[7, 3]] == values


def test_regions_without_attributes_are_one_class(folder: Path, tmp_path: Path) -> None:
    write_json(folder / "via.json", {"0": region(value=None)})
    assert convert(folder, tmp_path / "out", *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "object"]
    (tmp_path / "names.txt").write_text("balloon\nobject = balloon\n")
    names = ("--classes", tmp_path / "names.txt")
    assert convert(folder, tmp_path / "named", *names, *ALL) == 0
    assert classes_of(tmp_path / "named") == ["background", "balloon"]


def test_options_of_a_project_have_names(folder: Path, tmp_path: Path) -> None:
    """VIA's export to COCO calls its categories by the texts of the options, not by their ids."""
    path = write_json(folder / "via.json", [region(value="1"), region(RECT, "dog")], project=True)
    content = json.loads(path.read_text())
    options = {"1": "tabby cat", "dog": "", "7": "unused"}
    content["_via_attributes"] = {"region": {"class": {"type": "radio", "options": options}}}
    path.write_text(json.dumps(content))
    assert convert(folder, tmp_path / "out", *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "dog", "tabby cat"]
    assert masks_of(tmp_path / "out")["a"][15, 10] == 2


def test_a_file_per_split(tmp_path: Path) -> None:
    for split, value in (("train", "cat"), ("val", "dog")):
        save_images(tmp_path / "in" / split, ["a.jpg", "b.jpg"])
        write_json(tmp_path / "in" / split / "via_region_data.json", [region(value=value)])
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    for number, split in ((1, "train"), (2, "val")):
        mask = masks_of(tmp_path / "out", split)[f"{split}/a"]
        assert np.array_equal(mask, drawn(TRIANGLE) * np.uint8(number))


def test_photos_of_phones_have_the_size_that_people_see(folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "a.jpg", exif=exif)
    write_json(folder / "via.json", [region()])
    assert convert(folder, tmp_path / "out", *ALL) == 0
    assert np.array_equal(masks_of(tmp_path / "out")["a"], drawn(TRIANGLE))


HARMFUL: dict[str, tuple[Any, str]] = {
    "no shape": ([{"region_attributes": {}}], "a.jpg, region 0: cannot be read"),
    "no name": ([region({"x": 1})], "a.jpg, region 0: cannot be read: 'name' is missing"),
    "unknown": ([region(), region({"name": "cuboid"})], "region 1: cannot be read: unknown shape"),
    "no width": ([region({**RECT, "width": None})], "a.jpg, region 0: cannot be read"),
    "NaN": ([region({**CIRCLE, "r": float("nan")})], "region 0: it cannot be drawn: a shape lies"),
    "NaN in a rect": ([region({**RECT, "x": float("nan")})], "region 0: it cannot be drawn"),
    "huge": ([region({**ELLIPSE, "cx": 10**400})], "a.jpg, region 0: cannot be read"),
    "far": ([region({**CIRCLE, "r": 1e9})], "region 0: it cannot be drawn: a shape lies far"),
    "far polygon": ([region({**TRIANGLE, "all_points_x": [1, 2, 1e12]})], "a shape lies far"),
    "lengths": ([region({**TRIANGLE, "all_points_x": [1, 2]})], "a.jpg, region 0: cannot be read"),
    "text": ([region("polygon")], "a.jpg, region 0: cannot be read"),
    "regions": (3, "via.json: not a file of VIA"),
    "region": ([3], "via.json: not a file of VIA"),
    "number": ([region(value=3)], "a.jpg, region 0: expected the name of a class, got 3"),
    "two boxes": ([region(value={"a": True, "b": True})], "region 0: a, b are checked; a region"),
    "over lines": ([region(value="a\nb\x1b[2J")], "a.jpg, region 0: a class needs a name"),
    "nothing drawn": ([region(POINT)], "show background only"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_annotations_are_one_line(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regions, expected = HARMFUL[name]
    write_json(folder / "via.json", regions)
    start = time.monotonic()
    assert convert(folder, tmp_path / "out", *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert time.monotonic() - start < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("filename,region_shape_attributes\na.jpg,{}\n", "not a table of VIA: 'file_size' is miss"),
        (
            "filename,file_size,region_shape_attributes,region_attributes\na.jpg,1,{x,{}\n",
            "not a t",
        ),
        (
            "filename,file_size,region_shape_attributes,region_attributes\n../a.png,1,{},{}\n",
            "not in",
        ),
    ],
)
def test_harmful_tables_are_one_line(
    text: str, expected: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "via.csv").write_text(text)
    assert convert(folder, tmp_path / "out", *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
