"""LabelMe's files become masks: every pixel as labelme's own export draws it, with Pillow."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sceneparse.data.formats import FORMATS, find_format
from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

RANDOM = np.random.default_rng(5)
ALL = ("--split", "all=1")
TRIANGLE = [[3.2, 2.0], [20.7, 4.4], [9.0, 17.6]]
BOX = [[20.0, 10.0], [27.0, 15.0]]


def png(pixels: NDArray[Any]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def shape(points: Any = TRIANGLE, label: Any = "cat", kind: Any = "polygon", **others: Any) -> Any:
    return {"label": label, "points": points, "shape_type": kind, "group_id": 3, **others}


def write_labelme(path: Path, shapes: Any = (), **changes: Any) -> Path:
    """Write a file of the image of the same name; a change to `...` removes the key."""
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes) if isinstance(shapes, list | tuple) else shapes,
        "imagePath": f"{path.stem}.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos, and a file of LabelMe beside the second."""
    save_images(tmp_path / "in", ["a.jpg", "b.jpg"])
    write_labelme(tmp_path / "in/b.json", [shape(BOX, "dog", "rectangle")])
    return tmp_path / "in"


def drawn(kind: str, points: Any, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.bool_]:
    """Draw one shape on a mask of its own, as labelme's documentation of shapes says."""
    image = Image.new("1", size[::-1])
    draw, flat = ImageDraw.Draw(image), [tuple(point) for point in points]
    if kind in {"circle", "point"}:
        (x, y), r = flat[0], 5.0 if kind == "point" else math.dist(*flat)
        draw.ellipse([(x - r, y - r), (x + r, y + r)], outline=1, fill=1)
    elif kind == "rectangle":
        (a, b), (c, d) = flat
        draw.rectangle([(min(a, c), min(b, d)), (max(a, c), max(b, d))], outline=1, fill=1)
    elif kind in {"line", "linestrip"}:
        draw.line(flat, fill=1, width=10)
    else:
        draw.polygon(flat, outline=1, fill=1)
    return np.array(image)


def mask_of(folder: Path, shapes: Any, **changes: Any) -> NDArray[np.unsignedinteger]:
    write_labelme(folder / "a.json", shapes, **changes)
    source = FORMATS["labelme"].read(folder / "a.json", {})
    return np.asarray(source.items[0].mask())


COUNTS = {"polygon": 0, "linestrip": 0, "rectangle": 2, "circle": 2, "line": 2, "point": 1}


@pytest.mark.parametrize("kind", [*COUNTS, "oriented_rectangle"])
def test_shapes_are_those_of_labelme(kind: str, folder: Path) -> None:
    for _ in range(60):
        count = COUNTS.get(kind, 4) or int(RANDOM.integers(3, 9))
        points = RANDOM.uniform(-0.2, 1.2, (count, 2)) * [WIDTH, HEIGHT]
        points = points.round(int(RANDOM.integers(0, 3))).tolist()
        mask = mask_of(folder, [shape(points, "x", kind)])
        assert np.array_equal(mask, drawn(kind, points)), points


def test_rectangles_of_other_tools(folder: Path) -> None:
    """AnyLabeling and its kin write four corners, and rectangles that are turned."""
    corners = [[4, 3], [15, 3], [15, 11], [4, 11]]
    mask = mask_of(folder, [shape(corners, "x", "rectangle")])
    assert np.array_equal(mask, drawn("rectangle", [[4, 3], [15, 11]]))
    turned = [[10.0, 2.0], [25.0, 9.5], [20.0, 19.0], [5.0, 11.5]]
    assert np.array_equal(mask_of(folder, [shape(turned, "x", "rotation")]), drawn("", turned))


def test_later_shapes_cover_earlier_ones_and_equal_labels_are_one_class(folder: Path) -> None:
    shapes = [
        shape(label=" cat "),
        shape([[25, 3], [8, 11]], "dog", "rectangle"),
        shape([[12, 9], [15, 9]], "_background_", "circle"),
        shape([[14.5, 8.5]], "__ignore__", "point"),
        shape([[2, 20], [30, 22]], "cat", "line"),
    ]
    write_labelme(folder / "a.json", shapes)
    assert convert(folder, folder.parent / "out", *ALL) == 0
    assert classes_of(folder.parent / "out") == ["background", "cat", "dog"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    for drawing, label in zip(shapes, (1, 2, 0, 255, 1), strict=True):
        expected[drawn(drawing["shape_type"], drawing["points"])] = label
    assert np.array_equal(masks_of(folder.parent / "out")["a"], expected)


def test_masks_lie_in_their_box_with_both_corners_inside(folder: Path) -> None:
    blob = RANDOM.random((7, 9)) < 0.5
    for left, top, shift in ((4, 3, 0), (-3, -2, 0), (28, 20, 0), (4, 3, 0.6)):
        corners = [[left + shift, top + shift], [left + 8 + shift, top + 6 + shift]]
        expected = np.zeros((HEIGHT + 20, WIDTH + 20), np.uint8)
        expected[top + 10 : top + 17, left + 10 : left + 19] = blob
        for stored in (blob, blob.astype(np.uint8), blob * np.uint8(255)):
            mask = mask_of(folder, [shape(corners, "x", "mask", mask=png(stored))])
            assert np.array_equal(mask, expected[10:-10, 10:-10])


def test_many_classes(folder: Path) -> None:
    kinds = ("polygon", "rectangle", "mask", "line", "point")
    stored = png(np.ones((6, 8), bool))
    for number, kind in enumerate(kinds):
        points = {"polygon": TRIANGLE, "point": BOX[:1]}.get(kind, BOX)
        shapes = [shape(BOX, f"class {i:03}", "rectangle") for i in range(300)]
        shapes.append(shape(points, f"class {290 + number}", kind, mask=stored))
        mask = mask_of(folder, shapes)
        assert mask.dtype == np.uint16
        assert (mask == 291 + number).sum() == drawn(
            kind.replace("mask", "rectangle"), points
        ).sum()


def test_labels_of_a_file_as_labelme_writes_it(folder: Path) -> None:
    write_labelme(folder / "a.json", [shape(), shape(BOX, "__ignore__", "rectangle")])
    labels = folder.parent / "labels.txt"
    labels.write_text("__ignore__\n_background_\ndog\nbird\ncat\n")
    assert convert(folder, folder.parent / "out", "--classes", labels, *ALL) == 0
    assert classes_of(folder.parent / "out") == ["background", "dog", "bird", "cat"]
    mask = masks_of(folder.parent / "out")["a"]
    assert (mask[drawn("rectangle", BOX)] == 255).all()
    assert mask[10, 10] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"imagePath": "..\\photos\\a.jpg"},
        {"imagePath": "C:\\Users\\me\\a.jpg"},
        {"imagePath": "/home/me/../a.jpg"},
        {"imagePath": "./a.jpg"},
        {"imagePath": "gone.jpg"},
        {"imagePath": None},
        {"imagePath": ..., "version": "3.2.1"},
        {"imageHeight": None, "imageWidth": None},
        {"imageHeight": ..., "imageWidth": ..., "version": "3.2.1"},
        {"flags": {"day": True}, "lineColor": [0, 255, 0, 128], "fillColor": None},
    ],
)
def test_what_files_say_of_their_image(
    changes: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    write_labelme(folder / "a.json", [shape()], **changes)
    (folder.parent / "files").mkdir()
    for name in ("a.json", "b.json"):
        shutil.copy(folder / name, folder.parent / "files")
    assert convert(folder, tmp_path / "out", *ALL) == 0
    assert convert(tmp_path / "files", tmp_path / "other", "--images", folder, *ALL) == 0
    for target in ("out", "other"):
        assert np.array_equal(masks_of(tmp_path / target)["a"], drawn("polygon", TRIANGLE))


def test_photos_of_phones_have_the_size_that_people_see(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "a.jpg", exif=exif)
    found = mask_of(folder, [shape()], imageHeight=None, imageWidth=None)
    assert np.array_equal(found, drawn("polygon", TRIANGLE))


def test_images_of_one_name_in_folders_that_are_splits(tmp_path: Path) -> None:
    """The image in the file's own folder is meant."""
    save_images(tmp_path / "in", ["train/a.jpg", "train/b.jpg", "val/a.jpg", "val/x/b.jpg"])
    for name in ("train/a", "train/b", "val/a"):
        label = "dog" if name == "val/a" else "cat"
        write_labelme(tmp_path / f"in/{name}.json", [shape(label=label)])
    write_labelme(tmp_path / "in/val/b.json", [shape()], imagePath="x\\..\\x\\b.jpg")
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    train, val = masks_of(tmp_path / "out", "train"), masks_of(tmp_path / "out", "val")
    assert [len(train), len(val)] == [2, 2]
    assert [int(mask.max()) for mask in (*train.values(), *val.values())] == [1, 1, 2, 1]


@pytest.mark.parametrize("image_path", ["a.jpg", "..\\images\\a.jpg", "D:\\all\\a.jpg", None])
def test_folders_of_images_and_files_in_each_split(image_path: str | None, tmp_path: Path) -> None:
    """Of images with one name the nearest is meant."""
    for split in ("train", "val"):
        save_images(tmp_path / "in" / split / "images", ["a.jpg", "b.jpg"])
        shapes = [shape(label=f"of {split}")]
        write_labelme(tmp_path / "in" / split / "labels/a.json", shapes, imagePath=image_path)
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    for number, split in ((1, "train"), (2, "val")):
        mask = masks_of(tmp_path / "out", split)[f"{split}/images/a"]
        assert np.array_equal(mask, drawn("polygon", TRIANGLE) * np.uint8(number))


def test_what_is_skipped_is_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "settings.json").write_text('{"font": 3}')
    (folder / "list.json").write_text("[1, 2]")
    (folder / "._b.json").write_bytes(b"\x00\x05")
    few = [shape(TRIANGLE[:1]), shape(TRIANGLE[:2]), shape([], kind="linestrip")]
    write_labelme(folder / "a.json", [*few, shape(kind=None), shape([[5, 5]], kind="circle")])
    assert find_format(folder)[0].name == "labelme"
    assert convert(folder, tmp_path / "out", *ALL) == 0
    output = capsys.readouterr().out
    assert f"2 JSON files that are not LabelMe's, e.g. {folder / 'list.json'}" in output
    assert f"2 polygons of too few points, e.g. {folder / 'a.json'}: shape 0" in output
    assert "1 linestrips of too few points" in output
    assert "1 circles of too few points" in output
    assert np.array_equal(masks_of(tmp_path / "out")["a"], drawn("polygon", TRIANGLE))


def test_images_inside_of_the_files_are_not_kept(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(12)]
    save_images(tmp_path, names)
    for name in names:
        path = tmp_path / name.replace("jpg", "json")
        write_labelme(path, [shape()], imageData="A" * 2**20)
    tracemalloc.start()
    source = FORMATS["labelme"].read(tmp_path, {})
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source.items) == 12
    assert kept < 2**19
    assert most < 8 * 2**20


# Name: shapes, changes of the file, and what the error says.
HARMFUL: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no points": ([{"label": "x"}], {}, "a.json: shape 0: cannot be read: 'points' is missing"),
    "no label": (
        [{"points": TRIANGLE}],
        {},
        "a.json: shape 0: cannot be read: 'label' is miss",
    ),
    "label that is none": (
        [shape(label=3)],
        {},
        "shape 0: expected the name of a class, got 3",
    ),
    "empty label": ([shape(label=" ")], {}, "a.json: shape 0: a class needs a name"),
    "label over lines": ([shape(label="a\nb\x1b[2J")], {}, "a.json: shape 0: a class needs"),
    "text": ([shape("polygon")], {}, "a.json: shape 0: cannot be read"),
    "three numbers": (
        [shape([[1, 2, 3], [4, 5, 6]] * 2)],
        {},
        "its points are no list of x, y",
    ),
    "NaN": ([shape([[float("nan"), 1], *TRIANGLE])], {}, "far outside the image"),
    "infinite": ([shape([[1, 1], [float("inf"), 1]], kind="circle")], {}, "far outside"),
    "huge": ([shape([[10**400, 1], *TRIANGLE])], {}, "a.json: shape 0: cannot be read"),
    "far": ([shape(), shape([[1e9, 1], *TRIANGLE])], {}, "a.json: shape 1: its polygon cannot"),
    "kind": ([shape(kind="cuboid")], {}, "a.json: shape 0: unknown shape_type 'cuboid'; known"),
    "kind that is none": ([shape(kind=["x"])], {}, "a.json: shape 0: cannot be read"),
    "many corners": ([shape(TRIANGLE, kind="rectangle")], {}, "a rectangle of 3 points"),
    "two circles": ([shape(TRIANGLE, kind="circle")], {}, "shape 0: a circle of 3 points"),
    "shapes": (3, {}, "a.json: its shapes are no list"),
    "shape": ([3], {}, "a.json: shape 0: cannot be read"),
    "no PNG": ([shape(BOX, kind="mask", mask=None)], {}, "a.json: shape 0: cannot be read"),
    "damaged PNG": (
        [shape(BOX, kind="mask", mask="aaaa")],
        {},
        "a.json: shape 0: not an image",
    ),
    "cut PNG": (
        [shape(BOX, kind="mask", mask=png(np.ones((6, 8), bool))[:60])],
        {},
        "a.json: shape 0: ",
    ),
    "coloured PNG": (
        [shape(BOX, kind="mask", mask=png(np.ones((6, 8, 3), np.uint8)))],
        {},
        "a.json: shape 0: its mask cannot be drawn: its PNG is coloured",
    ),
    "size of PNG": (
        [shape(BOX, kind="mask", mask=png(np.ones((6, 9), bool)))],
        {},
        "a PNG of (9, 6) pixels in a box of (8, 6)",
    ),
    "path": ([shape()], {"imagePath": "../../../etc/passwd.jpg"}, "passwd.jpg' is not in"),
    "no image": ([shape()], {"imagePath": 7}, "a.json: expected the name of an image, got '7'"),
    "size": ([shape()], {"imageHeight": 10**9}, "no image is of 32x1000000000"),
    "no size": ([shape()], {"imageHeight": 0}, "no image is of 32x0 pixels"),
    "other size": ([shape()], {"imageHeight": 23}, "is 32x24, its mask 32x23"),
    "size in words": ([shape()], {"imageHeight": "24"}, "a.json: imageHeight and imageWidth"),
    "embedded": (
        [shape()],
        {"imagePath": "gone.jpg", "imageData": "AAAA"},
        "a.json` writes it as img.png; name that a.png",
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_annotations_are_one_line(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes, changes, expected = HARMFUL[name]
    write_labelme(folder / "a.json", shapes, **changes)
    if expected.endswith("a.png") or "path" in name or name == "no image":
        (folder / "a.jpg").rename(folder / "other.jpg")
    start = time.monotonic()
    assert convert(folder, tmp_path / "out", "--as", "labelme", *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert time.monotonic() - start < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
