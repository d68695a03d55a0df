"""Masks in files: class numbers, palettes and colours of many tools, found, paired and named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sceneparse.data.formats.shared.classes import read_classes
from tests.conversion import HEIGHT, WIDTH, classes_of, convert, masks_of, save_images

ALL = ("--split", "all=1")
NAMES = ("a", "b", "c")


def save_masks(
    folder: Path, values: list[int], name: str = "{}.png", mode: str = "L"
) -> dict[str, NDArray[np.uint8]]:
    """Save a mask of random values for each name; return them."""
    masks = {}
    for number, stem in enumerate(NAMES):
        mask = np.random.default_rng(number).choice(values, (HEIGHT, WIDTH)).astype(np.uint8)
        path = folder / name.format(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(mask)
        if mode == "P":
            picture = Image.frombytes("P", picture.size, picture.tobytes())
            picture.putpalette([7 * i % 256 for i in range(768)])
        picture.save(path)
        masks[stem] = mask
    return masks


def paint(
    folder: Path, colors: Mapping[int, tuple[int, ...]], name: str = "{}.png"
) -> dict[str, NDArray[np.uint8]]:
    """Save a mask of random colours (RGB or RGBA) for each name; return their values."""
    masks = {}
    for number, stem in enumerate(NAMES):
        random = np.random.default_rng(number)
        mask = random.choice(list(colors), (HEIGHT, WIDTH)).astype(np.uint8)
        table = np.zeros((256, len(next(iter(colors.values())))), np.uint8)
        for value, color in colors.items():
            table[value] = color
        path = folder / name.format(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table[mask]).save(path)
        masks[stem] = mask
    return masks


def assert_equal(found: Mapping[str, NDArray], expected: Mapping[str, NDArray]) -> None:
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert np.array_equal(found[name], mask), name


def test_voc_with_its_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "VOCdevkit/VOC2012"
    save_images(root / "JPEGImages", ["a.jpg", "b.jpg", "c.jpg", "without mask.jpg"])
    masks = save_masks(root / "SegmentationClass", [0, 5, 20, 255], mode="P")
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        (root / folder / f"b{suffix}").rename(root / folder / f"b b{suffix}")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name, lines in (("train", "a\nz\n"), ("val", '"b b"\r\n'), ("trainval", "a\nb b\n")):
        (lists / f"{name}.txt").write_text(lines)
    for number, source in enumerate((tmp_path / "VOCdevkit", root)):
        target = tmp_path / f"out{number}"
        assert convert(source, target) == 0
        assert_equal(masks_of(target, "train"), {"a": masks["a"]})
        assert_equal(masks_of(target, "val"), {"b b": masks["b"]})
        assert classes_of(target)[15] == "person"
    output = capsys.readouterr().out
    assert "1 masks that no list in ImageSets/Segmentation names" in output
    assert "1 image files without a partner" in output
    assert "1 names in ImageSets/Segmentation without a mask, e.g. z" in output
    assert "classes are the 21 of Pascal VOC" in output


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationClassPNG"])
def test_labelme2voc_has_classes_of_its_own(folder: str, tmp_path: Path) -> None:
    root = save_images(tmp_path / "source", [f"JPEGImages/{name}.jpg" for name in NAMES])
    masks = save_masks(root / folder, [0, 1, 2, 255], mode="P")
    (root / "SegmentationClass").mkdir(exist_ok=True)
    (root / "class_names.txt").write_text("_background_\nroad\nweed\n")
    assert convert(root, tmp_path / "out", *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "road", "weed"]
    assert_equal(masks_of(tmp_path / "out"), masks)


def test_voc_refuses_binary_masks_and_foreign_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = save_images(tmp_path / "source", [f"JPEGImages/{name}.jpg" for name in NAMES])
    save_masks(root / "SegmentationClass", [0, 255])
    assert convert(root, tmp_path / "out", *ALL) == 2
    assert "show background only, of 21 classes" in capsys.readouterr().err
    save_masks(root / "SegmentationClass", [0, 1, 40])
    assert convert(root, tmp_path / "out", *ALL) == 2
    assert "its mask holds 40, outside the 21 classes 0..20" in capsys.readouterr().err


CAMVID = {"Sky": (128, 128, 128), "Archway": (192, 0, 128), "Tree": (128, 128, 0)}


def test_camvid_as_its_release_and_as_the_usual_eleven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blanks after commas, NAME_L.png, a class Void; folders of splits beside each other."""
    grouped = read_classes(Path("camvid_11"))
    others = [name for name in (*grouped.names, *grouped.aliases) if name not in CAMVID]
    other_rows = [f"{name}, {9 + number}, 7, 7" for number, name in enumerate(others)]
    rows = [f"{name}, {r}, {g}, {b}" for name, (r, g, b) in CAMVID.items()]
    root = save_images(
        tmp_path / "source", [f"{split}/{n}.png" for split in ("train", "val") for n in NAMES]
    )
    (root / "class_dict.csv").write_text(
        "\n".join(["name, r, g, b", *rows, "Void, 0, 0, 0", *other_rows])
    )
    colors = {0: CAMVID["Sky"], 1: CAMVID["Archway"], 2: CAMVID["Tree"], 255: (0, 0, 0)}
    masks = [paint(root / f"{split}_labels", colors, "{}_L.png") for split in ("train", "val")]
    assert convert(root, tmp_path / "all") == 0
    output = capsys.readouterr().out
    assert "paired by their names: 'a' with 'a_L'" in output
    assert "--classes camvid_11 makes the usual 11" in output
    assert_equal(masks_of(tmp_path / "all", "val"), masks[1])
    assert len(classes_of(tmp_path / "all")) == 3 + len(others)
    assert convert(root, tmp_path / "eleven", "--classes", "camvid_11") == 0
    names = classes_of(tmp_path / "eleven")
    assert len(names) == 11
    index = {0: names.index("Sky"), 1: names.index("Building"), 2: names.index("Tree"), 255: 255}
    expected = {name: np.vectorize(index.get)(mask) for name, mask in masks[0].items()}
    assert_equal(masks_of(tmp_path / "eleven", "train"), expected)


@pytest.mark.fault(14)
def test_stray_colors_are_an_error_ignored_or_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in NAMES])
    masks = paint(root / "masks", {0: (128, 0, 0), 1: (0, 0, 200), 255: (0, 0, 0)})
    (root / "colors.csv").write_text("name;r;g;b\nroad;128;0;0\nvoid;0;0;0\ntree;0;0;200\n")
    assert convert(root, tmp_path / "out", *ALL) == 0
    assert_equal(masks_of(tmp_path / "out"), masks)
    assert (tmp_path / "out/colors.txt").read_text() == "128 0 0\n0 0 200\n"
    picture = np.asarray(Image.open(root / "masks/a.png")).copy()
    picture[3, 4], picture[5, 6] = (120, 4, 9), (2, 1, 190)
    Image.fromarray(picture).save(root / "masks/a.png")
    assert convert(root, tmp_path / "no", *ALL) == 2
    message = capsys.readouterr().err
    assert "2 colours outside the table: (2,1,190) (1 px), (120,4,9) (1 px)" in message
    for rule, values in (("ignore", (255, 255)), ("nearest", (0, 1))):
        target = tmp_path / rule
        assert convert(root, target, "--unknown-colors", rule, *ALL) == 0
        masks["a"][3, 4], masks["a"][5, 6] = values
        assert_equal(masks_of(target), masks)
        assert "2 pixels of colours outside the table" in capsys.readouterr().out


def test_the_color_under_transparency_counts_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colors = {0: (128, 0, 0, 255), 1: (0, 0, 200, 255), 7: (128, 0, 0, 0), 8: (5, 6, 7, 0)}
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in NAMES])
    painted = paint(root / "masks", colors)
    table = tmp_path / "table.txt"
    for last, value in (("", 255), ("air,transparent\n", 2)):
        table.write_text(f"128 0 0 road\n0 0 200 tree\n{last}")
        target = tmp_path / f"out{value}"
        assert convert(root, target, "--as", "colors", "--classes", table, *ALL) == 0
        expected = {name: np.where(m > 1, value, m) for name, m in painted.items()}
        assert_equal(masks_of(target), expected)
    picture = np.asarray(Image.open(root / "masks/a.png")).copy()
    picture[2:4, 3, 3] = 100
    Image.fromarray(picture).save(root / "masks/a.png")
    assert convert(root, tmp_path / "no", "--as", "colors", "--classes", table, *ALL) == 2
    assert "2 pixels" in capsys.readouterr().err


def test_cvat_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "source"
    photos = save_images(tmp_path / "photos", [f"{name}.jpg" for name in NAMES])
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("a\nb\nc\n")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwide road:52,209,183::\n"
        "ignore:224,224,192::\n"
    )
    colors = {0: (0, 0, 0), 1: (52, 209, 183), 255: (224, 224, 192)}
    masks = paint(root / "SegmentationClass", colors)
    assert convert(tmp_path, tmp_path / "out") == 2
    assert f"of no known format; give '{root}'" in capsys.readouterr().err
    assert convert(root, tmp_path / "out", "--images", photos, *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "wide road"]
    assert_equal(masks_of(tmp_path / "out"), masks)


LAYOUTS: dict[str, tuple[str, str]] = {
    "two folders": ("images/{}.jpg", "masks/{}.png"),
    "suffix": ("images/{}.jpg", "masks/{}_mask.png"),
    "one folder": ("{}_image.png", "{}_annotation.png"),
    "ground truth": ("photos/{}.jpg", "GT/{}_gt.png"),
    "sub-folders": ("images/north/{}.jpg", "labels/north/{}.png"),
    "in a labelled folder": ("seg_data/images/{}.jpg", "seg_data/masks/{}.png"),
    "images of a kind": ("original_images/{}.jpg", "label_images_semantic/{}.png"),
    "unnamed images": ("aerial/{}.jpg", "masks/{}.png"),
    "deeper masks": ("images/{}.jpg", "annotations/trimaps/{}.png"),
    "any name": ("pictures of today/{}.jpeg", "my_labels/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_found_and_paired(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = LAYOUTS[layout]
    root = save_images(tmp_path / "source", [image.format(name) for name in NAMES])
    masks = save_masks(root, [0, 1, 2, 255], mask)
    (root / "classes.txt").write_text("soil\ncrop\nweed\n")
    assert convert(root, tmp_path / "out", *ALL) == 0
    found = {name.rsplit("/", 1)[-1][0]: m for name, m in masks_of(tmp_path / "out").items()}
    assert_equal(found, masks)
    assert classes_of(tmp_path / "out") == ["soil", "crop", "weed"]
    rule = "paired by their names" in capsys.readouterr().out
    assert rule is ("_" in f"{Path(image).name}{Path(mask).name}")


def test_files_without_a_partner_are_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in (*NAMES, "d")])
    save_masks(root / "masks", [0, 1])
    monkeypatch.chdir(tmp_path)
    assert convert(Path("source"), tmp_path / "out", "--images", root / "images", *ALL) == 0
    assert " 1 image files without a partner" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("{}/images", "{}/masks"),
        ("images/{}", "annotations/{}"),
        ("{}", "{}annot"),
        ("{}_img", "{}_masks"),
        ("img_dir/{}", "ann_dir/{}"),
        ("seg_data/{}/rgb", "seg_data/{}/semantic"),
    ],
)
def test_splits_of_folders_are_kept(images: str, masks: str, tmp_path: Path) -> None:
    root, expected = tmp_path / "source", {}
    for split, values in (("train", [0, 1, 255]), ("valid", [0, 1])):
        save_images(root / images.format(split), [f"{name}.jpg" for name in NAMES])
        expected[split] = save_masks(root / masks.format(split), values)
    assert convert(root, tmp_path / "out") == 0
    assert_equal(masks_of(tmp_path / "out", "val"), expected["valid"])
    assert_equal(masks_of(tmp_path / "out", "train"), expected["train"])


def test_binary_masks_have_two_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in NAMES])
    masks = save_masks(root / "masks", [0, 255])
    expected = {name: mask // 255 for name, mask in masks.items()}
    assert convert(root, tmp_path / "out", *ALL) == 0
    assert classes_of(tmp_path / "out") == ["background", "foreground"]
    assert_equal(masks_of(tmp_path / "out"), expected)
    assert "255 becomes class 1, 'foreground'" in capsys.readouterr().out
    (tmp_path / "names.txt").write_text("field\nroad\n")
    assert convert(root, tmp_path / "two", "--classes", tmp_path / "names.txt", *ALL) == 0
    assert classes_of(tmp_path / "two") == ["field", "road"]
    assert_equal(masks_of(tmp_path / "two"), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparent_pixels_of_binary_masks_are_ignored(mode: str, tmp_path: Path) -> None:
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in NAMES])
    grey = {0: (0, 255), 1: (255, 255), 255: (0, 0)}
    colors = {value: (*pair[:1] * len(mode), pair[1]) for value, pair in grey.items()}
    masks = paint(root / "masks", colors)
    assert convert(root / "masks", tmp_path / "out", "--images", root / "images", *ALL) == 0
    assert_equal(masks_of(tmp_path / "out"), masks)
    assert classes_of(tmp_path / "out") == ["background", "foreground"]


def test_a_table_of_greys_names_values(tmp_path: Path) -> None:
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in NAMES])
    masks = save_masks(root / "masks", [0, 128, 255])
    (tmp_path / "t.csv").write_text("soil,0,0,0\ncrop,128,128,128\nweed,255,255,255\n")
    assert convert(root, tmp_path / "out", "--classes", tmp_path / "t.csv", *ALL) == 0
    assert_equal(
        masks_of(tmp_path / "out"), {k: (m.astype(int) + 1) // 128 for k, m in masks.items()}
    )


@pytest.mark.parametrize(
    ("values", "suffix", "expected"),
    [
        ([0, 128, 255], ".png", "masks hold the values 0, 128, 255, which are not 0, 1, 2"),
        ([0, 1], ".jpg", "JPEG changes class numbers"),
    ],
)
def test_values_that_are_no_class_numbers(
    values: list[int],
    suffix: str,
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in NAMES])
    save_masks(root / "masks", values, "{}" + suffix)
    assert convert(root, tmp_path / "out", *ALL) == 2
    assert expected in capsys.readouterr().err


def test_colors_without_a_table_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = save_images(tmp_path / "source", [f"images/{name}.jpg" for name in NAMES])
    masks = paint(root / "masks", {0: (9, 9, 9), 1: (1, 2, 3)})
    assert convert(root, tmp_path / "out", *ALL) == 2
    assert "this mask holds colours, not class numbers: (1,2,3) (407 px)" in capsys.readouterr().err
    (tmp_path / "table.csv").write_text("road,9,9,9\ntree,1,2,3\n")
    assert convert(root, tmp_path / "out", "--classes", tmp_path / "table.csv", *ALL) == 0
    assert_equal(masks_of(tmp_path / "out"), masks)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_pairs_of_a_table(separator: str, tmp_path: Path) -> None:
    root = save_images(tmp_path / "source", [f"photos/{name}.jpg" for name in NAMES])
    masks = save_masks(root / "drawn", [0, 1, 2, 255], "of {}.png")
    rows = [["Mask", "ID", "Filename"]]
    rows += [[f"drawn\\of {name}.png", "1", f"photos\\{name}.jpg"] for name in NAMES]
    table = root / "table.csv"
    table.write_text("# made by hand\n" + "\n".join(separator.join(row) for row in rows))
    assert convert(table, tmp_path / "out", *ALL) == 0
    found = {name.rsplit("/", 1)[-1]: mask for name, mask in masks_of(tmp_path / "out").items()}
    assert_equal(found, masks)
    assert classes_of(tmp_path / "out") == ["class_0", "class_1", "class_2"]


def test_splits_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = save_images(tmp_path / "source", [f"photos/{name}.jpg" for name in NAMES])
    masks = save_masks(root / "masks", [0, 1])
    table, splits = root / "table.csv", ["fold1", "valid", "fold1"]
    lines = [f"photos/{n}.jpg,masks/{n}.png,{s}" for n, s in zip(NAMES, splits, strict=True)]
    table.write_text("\n".join(["image,mask,split", *lines]))
    assert convert(table, tmp_path / "out") == 0
    assert_equal(masks_of(tmp_path / "out", "fold1"), {f"photos/{n}": masks[n] for n in "ac"})
    assert [*masks_of(tmp_path / "out", "val")] == ["photos/b"]
    table.write_text("\n".join(["image,mask,split", *lines[:2], "photos/c.jpg,masks/c.png,"]))
    assert convert(table, tmp_path / "no") == 2
    assert "1 of 3 images are in none of the source's splits" in capsys.readouterr().err


HARMFUL: dict[str, tuple[str, str]] = {
    "columns": ("a,b\n1,2\n", "expected the columns image,mask, found a, b"),
    "empty": ("", "not valid pairs"),
    "cells": ("image,mask\nphotos/a.jpg\n", "line 2"),
    "split": ("image,mask,split\nphotos/a.jpg,photos/a.jpg,../x\n", "line 2: a split is named by"),
    "outside": ("image,mask\nphotos/a.jpg,../../etc/passwd\n", "passwd' is not in"),
    "twice": ("image,label,gt\na,b,c\n", "two columns could be 'mask'"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_tables_are_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, expected = HARMFUL[name]
    save_images(tmp_path, ["photos/a.jpg"])
    (tmp_path / "t.csv").write_text(content)
    assert convert(tmp_path / "t.csv", tmp_path / "out", "--as", "pairs", *ALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()
