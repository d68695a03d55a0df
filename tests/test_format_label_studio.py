"""Label Studio's tasks become masks: brushes as its own decoder reads them, polygons as COCO's."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco

from sceneparse.data.formats import find_format
from sceneparse.data.formats.shared.bits import decode_alpha
from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

RANDOM = np.random.default_rng(11)
ALL = ("--split", "all=1")
SIZE = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
# Written by label_studio_sdk.converter.brush.mask2rle (2.1.2) for the mask below.
WRITTEN = [
    *(0, 0, 0, 192, 57, 27, 252, 127, 248, 140, 3, 9, 255, 219),
    *(0, 194, 127, 246, 192, 48, 159, 253, 240, 8, 255, 241, 120, 0),
]
TRIANGLE = [[9.375, 8.4], [78.0, 16.7], [28.1, 83.3]]


def encode(pixels: NDArray[np.bool_]) -> list[int]:
    """Pack a mask as the format is described: red, green, blue, alpha; runs and lists at random."""
    values = np.zeros((*pixels.shape, 4), np.uint8)
    values[pixels] = (12, 34, 56, 255)
    values[~pixels, :3] = RANDOM.choice([0, 99])
    flat = values.ravel().tolist()
    sizes = sorted(int(size) for size in RANDOM.integers(1, 17, 4))
    text = f"{len(flat):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    start = 0
    while start < len(flat):
        which = int(RANDOM.integers(4))
        most = min(2 ** sizes[which], len(flat) - start)
        length = 1
        while length < most and flat[start + length] == flat[start]:
            length += 1
        is_run = length > 1 or RANDOM.random() < 0.3
        if not is_run:
            length = int(RANDOM.integers(1, most + 1))
        listed = flat[start : start + (1 if is_run else length)]
        text += f"{int(is_run)}{which:02b}{length - 1:0{sizes[which]}b}"
        text += "".join(f"{value:08b}" for value in listed)
        start += length
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def region(kind: str, label: str | None, **value: Any) -> dict[str, Any]:
    labels = {} if label is None else {kind: [label]}
    return {
        **SIZE, "id": f"r{RANDOM.integers(10**9)}", "type": kind, "from_name": "tag",
        "value": {**labels, **value},
    }  # fmt: skip


def polygon(label: str = "cat", points: Any = TRIANGLE) -> dict[str, Any]:
    return region("polygonlabels", label, points=points, closed=True)


def rectangle(label: str = "dog", rotation: float = 0, **changes: Any) -> dict[str, Any]:
    box = {"x": 40.0, "y": 20.0, "width": 31.0, "height": 42.0, "rotation": rotation, **changes}
    return region("rectanglelabels", label, **box)


def ellipse(label: str = "dog") -> dict[str, Any]:
    shape = {"x": 45.0, "y": 52.0, "radiusX": 30.0, "radiusY": 17.0, "rotation": 25}
    return region("ellipselabels", label, **shape)


def brush(pixels: NDArray[np.bool_], label: str = "cat") -> dict[str, Any]:
    return region("brushlabels", label, format="rle", rle=encode(pixels))


def task(results: Any, image: Any = "a.jpg", **changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "result": results, "was_cancelled": False, "created_at": "2024-01-02"}
    return {"id": 5, "data": {"image": image}, "annotations": [annotation], **changes}


def write(folder: Path, tasks: Any, name: str = "export.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(tasks))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_images(tmp_path / "in", ["a.jpg", "b.jpg"])


def filled(points: Any) -> NDArray[np.bool_]:
    """Fill corners in pixels with pycocotools."""
    flat = [[float(value) for point in points for value in point]]
    return coco.decode(coco.merge(coco.frPyObjects(flat, HEIGHT, WIDTH))).astype(bool)


def percents(points: Any) -> list[list[float]]:
    return [[x * WIDTH / 100, y * HEIGHT / 100] for x, y in points]


def turned() -> NDArray[np.bool_]:
    """Fill the ellipse of `ellipse` by testing each pixel's centre."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    turn = complex(math.cos(math.radians(25)), -math.sin(math.radians(25)))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            offset = complex(column + 0.5 - 0.45 * WIDTH, row + 0.5 - 0.52 * HEIGHT) * turn
            across, down = offset.real / (0.3 * WIDTH), offset.imag / (0.17 * HEIGHT)
            mask[row, column] = across**2 + down**2 <= 1
    return mask


def test_brushes_are_what_label_studio_wrote() -> None:
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:7] = expected[4, 3] = expected[0, 0] = True
    assert np.array_equal(decode_alpha(bytes(WRITTEN), 6, 8), expected)


def test_brushes_of_all_block_lengths() -> None:
    for _ in range(150):
        height, width = (int(side) for side in RANDOM.integers(1, 30, 2))
        pixels = RANDOM.random((height, width)) < RANDOM.choice([0, 0.03, 0.5, 0.97, 1])
        assert np.array_equal(decode_alpha(bytes(encode(pixels)), height, width), pixels)


BLOB = np.add.outer(np.arange(HEIGHT) % 5, np.arange(WIDTH) % 3) > 4
DRAWN = [brush(BLOB), polygon("dog"), rectangle("cat"), ellipse("__ignore__"), polygon("bird")]
DRAWN[-1]["value"]["points"] = [[70, 70], [95, 70], [95, 95]]
SHORT = [{**SIZE, **one["value"]} for one in DRAWN]
STORED = {"id": 3, "result": DRAWN, "task": {"id": 5, "data": {"image": "a.jpg"}}}
EXPORTS: dict[str, Any] = {
    "JSON": [task(DRAWN)],
    "a file per task": task(DRAWN),
    "storage": {**STORED, "created_at": "2024"},
    "old": [{"data": {"image": "a.jpg"}, "completions": [{"result": DRAWN, "created_at": 170}]}],
    "JSON_MIN": [
        {"image": "a.jpg", "id": 1, "tag": SHORT, "good": "yes", "annotator": 1, "annotation_id": 2}
    ],
    "labels apart": [
        task(
            [
                result
                for one in DRAWN
                for kind in [one["type"].removesuffix("labels")]
                for plain in [{k: v for k, v in one["value"].items() if k != one["type"]}]
                for result in (
                    {**one, "type": kind, "value": plain},
                    {
                        **one,
                        "type": "labels",
                        "value": {**plain, "labels": one["value"][one["type"]]},
                    },
                )
            ]
        )
    ],
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_all_kinds(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, EXPORTS[name])
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    box = [[40, 20], [71, 20], [71, 62], [40, 62]]
    corner = [[70, 70], [95, 70], [95, 95]]
    for shape, label in (
        (BLOB, 2),
        (filled(percents(TRIANGLE)), 3),
        (filled(percents(box)), 2),
        (turned(), 255),
        (filled(percents(corner)), 1),
    ):
        expected[shape] = label
    for source in (folder, path):
        assert find_format(source)[0].name == "label-studio"
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert convert(source, tmp_path / "out", *ALL) == 0
        assert classes_of(tmp_path / "out") == ["background", "bird", "cat", "dog"]
        assert np.array_equal(masks_of(tmp_path / "out")["a"], expected)
    assert "skipped      nothing" in capsys.readouterr().out


def test_rectangles_turn_about_their_first_corner(folder: Path, tmp_path: Path) -> None:
    write(folder, [task([rectangle(rotation=30), polygon("dog", [[2, 2], [2, 9], [9, 9]])])])
    assert convert(folder, tmp_path / "out", *ALL) == 0
    left, top = 0.4 * WIDTH, 0.2 * HEIGHT
    across, down = 0.31 * WIDTH, 0.42 * HEIGHT
    turn = complex(math.cos(math.radians(30)), math.sin(math.radians(30)))
    offsets = [corner * turn for corner in (0j, across + 0j, complex(across, down), down * 1j)]
    expected = filled([[left + offset.real, top + offset.imag] for offset in offsets])
    expected |= filled(percents([[2, 2], [2, 9], [9, 9]]))
    assert np.array_equal(masks_of(tmp_path / "out")["a"], expected)


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/1/a1b2c3d4-a%20b.jpg",
        "/data/upload/1/a b.jpg",
        "/data/upload/1/a1b2c3d4-a b.jpg",
        "/data/local-files/?d=some%20where/a%20b.jpg",
        "/data/local-files/?d=photos/a b.jpg",
        "s3://bucket/photos/a b.jpg",
        "gs://bucket/photos/a%20b.jpg",
        "https://example.com/x/a%20b.jpg?token=3#top",
        "C:\\photos\\a b.jpg",
        "photos\\a1b2c3d4-a b.jpg",
    ],
)
def test_names_of_images(image: str, tmp_path: Path) -> None:
    save_images(tmp_path / "photos", ["a b.jpg", "b.jpg"])
    tasks = [task([polygon()], image), task([], "b.jpg")]
    tasks[0]["data"] = {"width": 3, "picture": image, "author": "x"}
    path = write(tmp_path, tasks)
    assert convert(path, tmp_path / "out", "--images", tmp_path / "photos", *ALL) == 0
    masks = masks_of(tmp_path / "out")
    assert np.array_equal(masks["a b"], filled(percents(TRIANGLE)))
    assert not masks["b"].any()


def test_uploads_change_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Django's get_valid_filename, by which uploads are stored: no spaces, no brackets."""
    save_images(tmp_path / "in", ["my photo (1).jpg", "b+c.jpg", "d e.jpg", "d_(e).jpg"])
    uploads = ["/data/upload/3/0123abcd-my_photo_1.jpg", "/data/upload/3/0123abcd-bc.jpg"]
    write(tmp_path / "in", [task([polygon()], uploads[0]), task([], uploads[1])])
    assert convert(tmp_path / "in", tmp_path / "out", *ALL) == 0
    assert set(masks_of(tmp_path / "out")) == {"my photo (1)", "b+c"}
    write(tmp_path / "in", [task([polygon()], "/data/upload/3/0123abcd-d_e.jpg")])
    assert convert(tmp_path / "in", tmp_path / "no", *ALL) == 2
    assert "0123abcd-d_e.jpg' is not in" in capsys.readouterr().err


def test_what_is_skipped(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_images(folder, ["c.jpg"])
    results = [
        polygon(),
        region("keypointlabels", "nose", x=3.0, y=4.0, width=0.5),
        region("choices", None, choices=["good"]),
        polygon("dog", TRIANGLE[:2]),
        rectangle(width=0),
        region("rectangle", None, x=1, y=1, width=9, height=9),
    ]
    several = task(results)
    several["annotations"] = [
        {"result": [polygon("bird")], "created_at": "2024-01-01"},
        {"result": results, "created_at": "2024-03-01T10:00:00Z"},
        {"result": [polygon("fish")], "created_at": "2024-02-01T10:00:00Z"},
        {"result": [polygon("cow")], "created_at": "2024-04-01", "was_cancelled": True},
    ]
    several["predictions"] = [{"result": [polygon("guess")]}]
    write(folder, [several, task([], "b.jpg"), task([], "c.jpg", annotations=[])])
    write(folder, {"font": 3}, "settings.json")
    assert convert(folder, tmp_path / "out", *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "cat"]
    masks = masks_of(tmp_path / "out")
    assert set(masks) == {"a", "b"}
    assert np.array_equal(masks["a"], filled(percents(TRIANGLE)))
    output = capsys.readouterr().out
    for line in (
        "2 older annotations of an image",
        "1 cancelled annotations",
        "1 predictions",
        f"1 tasks without annotations, e.g. {folder / 'export.json'}: task 5",
        "1 keypointlabels without area",
        "1 results of type 'choices', which are no regions",
        "1 polygonlabels without area",
        "1 rectanglelabels without area",
        "1 regions without a label",
        "1 entries of JSON files that are not Label Studio's",
    ):
        assert line in output


def changed(one: dict[str, Any], **changes: Any) -> Any:
    """Return a task of a region that is changed; `value_x` changes x of its value."""
    for key, value in changes.items():
        place = one["value"] if key.startswith("value_") else one
        place[key.removeprefix("value_")] = value
    return [task([{**one, "id": "r1"}])]


HARMFUL: dict[str, tuple[Any, str]] = {
    "no value": ([task([{"id": "r1"}])], "task 5: cannot be read: 'value' is missing"),
    "no size": (changed(polygon(), original_width=None), "task 5, region r1: cannot be read"),
    "size": (changed(polygon(), original_width=10**9), "no image is of 1000000000x24"),
    "other size": (changed(polygon(), original_width=40), "a.jpg is 32x24, its mask 40x24"),
    "two sizes": (
        [task([polygon(), {**polygon(), "id": "r1", "original_width": 40}])],
        "task 5, region r1: it cannot be drawn: an image of 40x24 pixels",
    ),
    "turned": (changed(polygon(), image_rotation=90), "region r1: the image was turned by 90 deg"),
    "label": (changed(polygon(), value_polygonlabels=[3]), "region r1: expected the name of a cl"),
    "two labels": (changed(polygon(), value_polygonlabels=["a", "b"]), "labels a, b; a region has"),
    "over lines": (changed(polygon(), value_polygonlabels=["a\nb"]), "region r1: a class needs a"),
    "NaN": (changed(polygon(), value_points=[[1, 2], [3, 4], [5, float("nan")]]), "far outside"),
    "huge": (changed(rectangle(), value_x=10**400), "task 5, region r1: cannot be read"),
    "far": (changed(ellipse(), value_radiusX=1e9), "region r1: it cannot be drawn: a shape lies"),
    "points": (changed(polygon(), value_points=[[1, 2, 3]] * 4), "region r1: cannot be read"),
    "text": (changed(polygon(), value_points="abc"), "region r1: cannot be read"),
    "number of bytes": (changed(brush(BLOB), value_rle=10**9), "region r1: cannot be read"),
    "no bytes": (changed(brush(BLOB), value_rle=[256]), "region r1: cannot be read"),
    "no run lengths": (changed(brush(BLOB), value_rle=[]), "run lengths end too early"),
    "cut": (changed(brush(BLOB), value_rle=encode(BLOB)[:-9]), "run lengths end too early"),
    "long": (
        changed(brush(BLOB), value_rle=[*encode(BLOB)[:7], 255, 255, *[255] * 9]),
        "region r1: it cannot be drawn",
    ),
    "size of a brush": (changed(brush(BLOB[1:])), "run lengths of 2944 values, not 4 for 32x24"),
    "path": ([task([], "../../../etc/passwd.jpg")], "task 5: image '../../../etc/passwd.jpg' is"),
    "image": ([task([], 3)], "task 5: expected one image in its data, got 0; the keys are image"),
    "image inside": ([task([], "data:image/png;base64,AAAA")], "its image is inside the JSON"),
    "nothing drawn": ([task([]), task([], "b.jpg")], "show background only"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_annotations_are_one_line(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, expected = HARMFUL[name]
    write(folder, tasks)
    start = time.monotonic()
    assert convert(folder, tmp_path / "out", *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert time.monotonic() - start < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
