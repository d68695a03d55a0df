"""YOLO's polygons against pycocotools, and Roboflow's masks with their table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

RANDOM = np.random.default_rng(9)
ALL = ("--split", "all=1")


def polygon(scale: float = 0.4) -> NDArray[np.float64]:
    return (RANDOM.uniform(0, scale, (6, 2)) + RANDOM.uniform(0, 0.6, 2)).round(6)


def line(number: int, points: NDArray) -> str:
    return f"{number} " + " ".join(f"{value:.6f}" for value in points.ravel()) + "\n"


def drawn(points: NDArray) -> NDArray[np.bool_]:
    pixels = (points * [WIDTH, HEIGHT]).ravel().tolist()
    return coco.decode(coco.merge(coco.frPyObjects([pixels], HEIGHT, WIDTH))).astype(bool)


def test_yolo_as_its_tools_lay_it_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large, small = polygon(), polygon(0.2)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    for shape, value in sorted(((large, 3), (small, 1)), key=lambda s: -drawn(s[0]).sum()):
        expected[drawn(shape)] = value
    text = line(0, small) + line(2, large) + "1 0.5 0.5 0.1 0.1\n\n"
    layouts = ("{0}/images/{2}", "{0}/labels/{2}"), ("images/{1}/{2}", "labels/{1}/{2}")
    for number, (image, label) in enumerate(layouts):
        root = tmp_path / f"source{number}"
        for split, coco_name in (("train", "train2017"), ("valid", "val2017")):
            names = [image.format(split, coco_name, f"{name}.jpg") for name in ("a", "empty")]
            save_images(root, names)
            path = root / label.format(split, coco_name, "a.txt")
            path.parent.mkdir(parents=True)
            path.write_text(text)
        (root / "data.yaml").write_text(
            "train: ../train/images\nnc: 3\nnames: [car, dog, tree]\n"
            if number
            else "path: x\nnames:\n  0: car\n  1: dog\n  2: tree\n"
        )
        for source in (root, root / "data.yaml"):
            target = tmp_path / f"out{number}{source.name}"
            assert convert(source, target) == 0
            assert classes_of(target) == ["background", "car", "dog", "tree"]
            for split in ("train", "val"):
                masks = {name.rsplit("/", 1)[-1]: m for name, m in masks_of(target, split).items()}
                assert np.array_equal(masks["a"], expected)
                assert not masks["empty"].any()
            output = capsys.readouterr().out
            assert "2 images have no label file and show background only" in output
            assert "2 boxes (four numbers), which have no outline" in output


def test_labels_beside_images_without_names(tmp_path: Path) -> None:
    root = save_images(tmp_path / "source", ["a.jpg", "b.png"])
    shape = polygon()
    (root / "a.txt").write_text(line(1, shape))
    (root / "train.txt").write_text("a.jpg\nb.png\n")
    (root / "b.txt").write_text("")
    assert convert(root, tmp_path / "out", *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "class_0", "class_1"]
    assert np.array_equal(masks_of(tmp_path / "out")["a"], drawn(shape) * np.uint8(2))


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt", "obj.names"])
def test_names_in_a_text_file(place: str, tmp_path: Path) -> None:
    shape = polygon()
    root = save_images(tmp_path / "source", ["images/a.jpg"])
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text(line(1, shape))
    (root / place).write_bytes(b"car\r\ndog\r\n")
    assert convert(root, tmp_path / "out", *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "car", "dog"]
    assert np.array_equal(masks_of(tmp_path / "out")["images/a"], drawn(shape) * np.uint8(2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 10 20 30 40 50 60\n", "a.txt, line 1: expected 'CLASS x y x y ...'"),
        ("0 0.1 0.2 0.3 0.4 0.5\n", "expected 'CLASS x y x y ...'"),
        ("car 0.1 0.2 0.3 0.4 0.5 0.6\n", "expected 'CLASS x y x y ...'"),
        ("0 0.1 0.2 0.3 0.4 0.5 nan\n", "expected 'CLASS x y x y ...'"),
        ("7 0.1 0.2 0.3 0.4 0.5 0.1\n", "a.txt: class 7 of 2 names"),
        ("0 0.5 0.5 0.1 0.1\n", "show background only"),
    ],
)
def test_harmful_labels_are_one_line(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = save_images(tmp_path / "source", ["images/a.jpg"])
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text(text)
    (root / "data.yaml").write_text("names: [car, dog]\n")
    assert convert(root, tmp_path / "out", "--as", "yolo", *ALL) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert expected in message
    assert not (tmp_path / "out").exists()


def test_roboflow_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its names have a dot and a hash; pixel values may have gaps."""
    root, expected = tmp_path / "source", {}
    for split in ("train", "valid"):
        save_images(root / split, ["a_jpg.rf.12ab.jpg", "b_jpg.rf.34cd.jpg"])
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n3, road\n")
        for name in ("a_jpg.rf.12ab", "b_jpg.rf.34cd"):
            mask = RANDOM.choice([0, 3], (HEIGHT, WIDTH)).astype(np.uint8)
            Image.fromarray(mask).save(root / split / f"{name}_mask.png")
            expected[split, name] = mask // 3
    assert convert(root, tmp_path / "out") == 0
    assert "format       roboflow-masks" in capsys.readouterr().out
    assert classes_of(tmp_path / "out") == ["background", "road"]
    for split, ours in (("train", "train"), ("valid", "val")):
        for name, mask in masks_of(tmp_path / "out", ours).items():
            assert np.array_equal(mask, expected[split, name])
    Image.fromarray(mask + 5).save(root / "train/a_jpg.rf.12ab_mask.png")
    assert convert(root, tmp_path / "no") == 2
    assert "_mask.png: values 5, 6 are not in _classes.csv" in capsys.readouterr().err
