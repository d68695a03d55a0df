"""COCO's JSON becomes masks: every pixel against pycocotools."""

from __future__ import annotations

import json
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

from sceneparse.data.formats.shared.drawing import coco_runs, decode_runs, paint_runs
from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

RANDOM = np.random.default_rng(3)
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
ALL = ("--split", "all=1")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_images(tmp_path / "photos", ["a.jpg", "b.jpg"])


def write_coco(path: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """Write a file of two images; `changes` of the first image, or of whole lists."""
    images = [
        {"id": i, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
        for i, name in enumerate("ab")
    ]
    content: dict[str, Any] = {"images": images, "annotations": annotations}
    content["categories"] = CATEGORIES
    for key, value in changes.items():
        if key in content:
            content[key] = value
        else:
            images[0][key] = value
    path.write_text(
        json.dumps({key: content[key] for key in ("images", "annotations", "categories")})
    )
    return path


def annotate(segmentation: Any, category: int = 7, image: Any = 0, **others: Any) -> dict[str, Any]:
    return {
        "id": 41, "image_id": image, "category_id": category, "segmentation": segmentation, **others
    }  # fmt: skip


def drawn(polygons: Any, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """Draw polygons with pycocotools."""
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)


def random_polygon(height: int, width: int) -> list[float]:
    """Return corners also outside of the image, on edges, on halves and on tenths of pixels."""
    corners = RANDOM.uniform(-0.2, 1.2, (int(RANDOM.integers(3, 12)), 2)) * [width, height]
    decimals = int(RANDOM.integers(0, 3))
    return corners.round(decimals).ravel().tolist()


def test_polygons_are_those_of_pycocotools() -> None:
    for _ in range(400):
        height, width = (int(side) for side in RANDOM.integers(1, 90, 2))
        polygons = [random_polygon(height, width) for _ in range(RANDOM.integers(1, 4))]
        found = paint_runs([coco_runs(polygons, height, width)], [1], height, width, 0)
        assert np.array_equal(found, drawn(polygons, height, width))


def test_run_lengths_are_those_of_pycocotools() -> None:
    for _ in range(200):
        size = height, width = tuple(int(side) for side in RANDOM.integers(1, 80, 2))
        blob = np.asfortranarray(RANDOM.random(size) < RANDOM.choice([0, 0.05, 0.5, 0.97, 1]))
        text = coco.encode(blob.astype(np.uint8))["counts"].decode()
        flat = blob.T.ravel().astype(int)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
        runs = np.diff(np.concatenate([[0], edges])).tolist()
        assert decode_runs(text).tolist() == runs
        for counts in (text, runs):
            region = coco_runs({"counts": counts, "size": size}, height, width)
            assert np.array_equal(paint_runs([region], [1], height, width, 0), blob)


def test_a_box_has_the_pixels_of_its_area_and_neighbours_meet(photos: Path, tmp_path: Path) -> None:
    def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
        return [[left, top, right, top, right, bottom, left, bottom]]

    path = write_coco(
        tmp_path / "c.json",
        [annotate(box(2, 3, 22, 13)), annotate(box(22, 3, 30, 13), 3), annotate(box(5, 14, 8, 24))],
    )
    assert convert(path, tmp_path / "out", "--images", photos, *ALL) == 0
    mask = masks_of(tmp_path / "out")["a"]
    assert classes_of(tmp_path / "out") == ["background", "dog", "cat"]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:13, 2:22], expected[3:13, 22:30], expected[14:24, 5:8] = 2, 1, 2
    assert np.array_equal(mask, expected)
    assert not masks_of(tmp_path / "out")["b"].any()


def test_small_regions_cover_large_ones_whatever_the_file_says(
    photos: Path, tmp_path: Path
) -> None:
    """`area` and `bbox` are often wrong or missing, for crowds of run lengths as well."""
    blob = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    blob[3:20, 5:29] = blob[2, 7] = 1
    crowd = {"counts": coco.encode(blob)["counts"].decode(), "size": [HEIGHT, WIDTH]}
    two_parts = [[1.0, 1.0, 9.5, 1.0, 9.5, 9.2], [20.0, 4.0, 30.3, 4.0, 25.0, 12.0]]
    tiny = [[24.0, 5.0, 27.0, 5.0, 27.0, 9.0, 24.0, 9.0]]
    annotations = [
        annotate(tiny, 7, area=99999),
        annotate(two_parts, 3, area=0.1, bbox=[0, 0, 1, 1]),
        annotate(crowd, 7, iscrowd=1),
    ]
    path = write_coco(tmp_path / "c.json", annotations)
    assert convert(path, tmp_path / "out", "--images", photos, *ALL) == 0
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[blob == 1] = 2
    expected[drawn(two_parts)] = 1
    expected[drawn(tiny)] = 2
    assert np.array_equal(masks_of(tmp_path / "out")["a"], expected)


TRIANGLE = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]


def test_what_exporters_leave_out_or_write_differently(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = [
        annotate(TRIANGLE),  # a flat list
        annotate([[[20, 2], [28, 2], [28, 9]]]),  # pairs
        annotate(None),
        annotate([]),
        {"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4]},
        annotate([[4.0, 4.0], TRIANGLE], 3, image="1"),  # a click, and an id as text
        annotate([[2, 12], [9, 12], [9, 20]], 7.0, image=0.0),  # points, and ids as floats
    ]
    path = write_coco(tmp_path / "c.json", annotations, height=None, file_name="C:\\x\\a.jpg")
    assert convert(path, tmp_path / "out", "--images", photos, *ALL) == 0
    output = capsys.readouterr().out
    assert "3 annotations without a segmentation" in output
    assert "1 polygons of fewer than three points" in output
    masks = masks_of(tmp_path / "out")
    all_three = drawn([TRIANGLE, [20, 2, 28, 2, 28, 9], [2, 12, 9, 12, 9, 20]])
    assert np.array_equal(masks["a"], all_three * np.uint8(2))
    assert np.array_equal(masks["b"], drawn([TRIANGLE]))


def test_ids_and_sizes_as_texts(photos: Path, tmp_path: Path) -> None:
    """As data bases and VIA write them; classes keep the order of the file."""
    rows = [{"id": "c-9", "name": "cat"}, {"id": "a-1", "name": "dog"}]
    path = write_coco(
        tmp_path / "c.json",
        [annotate([TRIANGLE], "a-1", "6f")],  # type: ignore[arg-type]
        categories=rows, id="6f", height=f"{HEIGHT}.0".split(".")[0], width=float(WIDTH),
    )  # fmt: skip
    assert convert(path, tmp_path / "out", "--images", photos, *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "cat", "dog"]
    assert np.array_equal(masks_of(tmp_path / "out")["a"], drawn([TRIANGLE]) * np.uint8(2))


def test_files_of_splits_become_one_dataset(tmp_path: Path) -> None:
    """As COCO itself, Roboflow (a folder per split) and many scripts lay them out."""
    for layout in ("annotations/instances_{}2017.json", "{}/_annotations.coco.json", "{}.json"):
        root = tmp_path / layout[:3].strip("{")
        shutil.rmtree(root, ignore_errors=True)
        for split, label in (("train", 7), ("valid", 3)):
            folder = f"{split}2017" if "2017" in layout else split
            save_images(root / folder, ["a.jpg", "b.jpg"])
            path = root / layout.format(split)
            path.parent.mkdir(exist_ok=True)
            write_coco(path, [annotate([TRIANGLE], label)])
            if "instances" in layout:  # COCO has files of other kinds beside them
                other = path.with_name(path.name.replace("instances", "person_keypoints"))
                write_coco(other, [annotate([TRIANGLE], 7, keypoints=[0] * 51)])
                path.with_name(f"captions_{split}2017.json").write_text('{"images": []}')
        target = root / "out"
        assert convert(root, target) == 0
        train, val = masks_of(target, "train"), masks_of(target, "val")
        assert classes_of(target) == ["background", "dog", "cat"]
        assert np.array_equal(train["a"], drawn([TRIANGLE]) * np.uint8(2))
        assert np.array_equal(val["a"], drawn([TRIANGLE]))


def test_images_of_one_name_in_two_folders(tmp_path: Path) -> None:
    photos = save_images(tmp_path / "photos", ["x/a.jpg", "y/a.jpg"])
    images = [
        {"id": i, "file_name": f"{part}\\a.jpg", "height": HEIGHT, "width": WIDTH}
        for i, part in enumerate("xy")
    ]
    path = write_coco(tmp_path / "c.json", [annotate([TRIANGLE], image=1)], images=images)
    assert convert(path, tmp_path / "out", "--images", photos, *ALL) == 0
    masks = masks_of(tmp_path / "out")
    assert not masks["x/a"].any()
    assert np.array_equal(masks["y/a"], drawn([TRIANGLE]) * np.uint8(2))


@pytest.mark.parametrize("name", ["background", " _background_ ", "shop"])
def test_categories_that_are_no_class_of_their_own(name: str, photos: Path, tmp_path: Path) -> None:
    """Category 0 is often the background, or the name of the project that groups the others."""
    categories = [
        {"id": 0, "name": name, "supercategory": "none"},
        {"id": 1, "name": " cat ", "supercategory": "shop"},
        {"id": 2, "name": "dog", "supercategory": "shop"},
    ]
    path = write_coco(tmp_path / "c.json", [annotate([TRIANGLE], 2)], categories=categories)
    assert convert(path, tmp_path / "out", "--images", photos, *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "cat", "dog"]
    assert masks_of(tmp_path / "out")["a"].max() == 2


def test_classes_of_a_file(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = [[15.0, 2.0, 25.0, 2.0, 25.0, 9.0, 15.0, 9.0]]
    path = write_coco(tmp_path / "c.json", [annotate([TRIANGLE]), annotate(box, 3)])
    names = tmp_path / "names.txt"
    options = ("--images", photos, "--classes", names, *ALL)
    for text, expected, values in (
        ("cat\ndog\n", ["background", "cat", "dog"], (1, 2)),
        ("dog\nbackground\ncat\n", ["dog", "background", "cat"], (2, 0)),
        ("# pets\nanimal\ncat = animal\ndog = __ignore__\n", ["background", "animal"], (1, 255)),
    ):
        names.write_text(text)
        target = tmp_path / f"out{len(text)}"
        assert convert(path, target, *options) == 0
        assert classes_of(target) == expected
        mask = masks_of(target)["a"]
        assert (mask[drawn([TRIANGLE])] == values[0]).all()
        assert (mask[drawn(box)] == values[1]).all()
    names.write_text("cat\n")
    assert convert(path, tmp_path / "no", *options) == 2
    assert "1 labels are not in" in (message := capsys.readouterr().err)
    assert "dog; add a line for each: 'NAME' for a class" in message


def test_panoptic(photos: Path, tmp_path: Path) -> None:
    ids = RANDOM.choice([0, 300, 70000], (HEIGHT, WIDTH)).astype(np.uint32)
    (tmp_path / "panoptic").mkdir()
    painted = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    segments = [{"id": 300, "category_id": 7}, {"id": 70000, "category_id": 3}]
    annotations: list[dict[str, Any]] = []
    for i, name in enumerate("ab"):
        Image.fromarray(painted).save(tmp_path / f"panoptic/{name}.png")
        annotations.append({"image_id": i, "file_name": f"{name}.png", "segments_info": segments})
    path = write_coco(tmp_path / "panoptic.json", annotations)
    assert convert(path, tmp_path / "out", "--images", photos, *ALL) == 0
    assert classes_of(tmp_path / "out") == ["dog", "cat"]
    expected = np.select([ids == 300, ids == 70000], [1, 0], 255)
    assert np.array_equal(masks_of(tmp_path / "out")["b"], expected)


def shape(segmentation: Any = (TRIANGLE,), **others: Any) -> Callable[[Path], Path]:
    return lambda path: write_coco(path, [annotate(segmentation, **others)])


def image(**changes: Any) -> Callable[[Path], Path]:
    return lambda path: write_coco(path, [annotate([TRIANGLE])], **changes)


def categories(*names: Any) -> Callable[[Path], Path]:
    rows = [{"id": 7 + i, "name": name} for i, name in enumerate(names)]
    return image(categories=rows)


HARMFUL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "path": (image(file_name="../../../etc/passwd.jpg"), "passwd.jpg' is not in"),
    "absolute path": (image(file_name="/etc/c.jpg"), "'/etc/c.jpg' is not in"),
    "no name": (image(file_name=None), "expected the name of an image"),
    "size": (image(height=10**9, width=10**9), "no image is of 1000000000x"),
    "negative size": (image(height=-1, width=-5), "no image is of"),
    "other size": (image(height=HEIGHT + 1), "is 32x24, its mask 32x25"),
    "size in words": (image(height="tall"), "cannot be drawn"),
    "far polygon": (shape([[0, -2e9, 9, 2e9, 5, 5]]), "annotation 41: its segmentation cannot"),
    "polygon": (shape([[1e400, 1, 2, 3, 4, 5]]), "far outside"),
    "text": (shape("polygon"), "annotation 41"),
    "box": (shape([[1, 2, 3, 4]]), "annotation 41: a segmentation of four numbers"),
    "flat box": (shape([1, 2, 3, 4]), "annotation 41: a segmentation of four numbers"),
    "odd": (shape([[1, 2, 3, 4, 5, 6, 7]]), "annotation 41: a polygon of 7 numbers"),
    "endless run": (shape({"counts": "o" * 10**6}), "a run length has too many digits"),
    "runs": (shape({"counts": [-1, WIDTH * HEIGHT + 1]}), "run lengths of -1..769 pixels"),
    "turned runs": (shape({"counts": [768], "size": [WIDTH, HEIGHT]}), "run lengths of size [32"),
    "many pixels": (shape({"counts": [2**60]}), "run lengths of"),
    "category": (shape(category=99), "annotation 41 has category_id 99, but there is no such"),
    "image": (shape(image=99), "annotation 41 has image_id 99, but there is no such image"),
    "class over lines": (categories("a\nb\x1b[2J"), "printable characters"),
    "class that is none": (categories(["a"]), "expected the name of a class"),
    "equal names": (categories("cat", "cat "), "categories 7, 8 have the same name 'cat'"),
    "nothing drawn": (shape(None), "skipped: 1 annotations without a segmentation, e.g."),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_annotations_are_one_line(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = HARMFUL[name]
    start = time.monotonic()
    assert convert(make(tmp_path / "c.json"), tmp_path / "out", "--images", photos, *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert time.monotonic() - start < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "photos"]
