"""Dataset layouts on tiny folders, their faults one by one, and the real packs."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from sceneparse.data.datasets import DATASETS, SegmentationDataset, create_dataset, spread
from sceneparse.data.sample_checks import check_samples
from sceneparse.errors import InputError


def write_image(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10, 20, 30)).save(path)


def write_mask(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.atleast_2d(np.asarray(values, dtype=np.uint8))).save(path)


class Case(NamedTuple):
    """One pair where a dataset keeps it, and its labels: raw as stored -> expected."""

    dataset: str
    split: str
    image: str
    mask: str
    labels: dict[int, int]


FOLDER = {0: 0, 1: 1, 2: 2, 255: 255}
CAMVID = {**{raw: raw for raw in range(11)}, 11: 255, 255: 255}
# https://github.com/mcordts/cityscapesScripts, labels.py
CITYSCAPES_CLASSES = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
CITYSCAPES = {
    raw: CITYSCAPES_CLASSES.index(raw) if raw in CITYSCAPES_CLASSES else 255
    for raw in (*range(34), 255)
}
TRAIN_IDS = {value: value for value in (*range(19), 255)}
AACHEN = "train/aachen/aachen_000000_000019"
AACHEN_IMAGE = f"leftImg8bit/{AACHEN}_leftImg8bit.png"
AACHEN_MASK = f"gtFine/{AACHEN}_gtFine"
ADE20K = {raw: raw - 1 if raw else 255 for raw in range(151)}
ADE = "ADEChallengeData2016"
ADE_VAL = ("images/validation/a.jpg", "annotations/validation/a.png")
CONTEXT = ("JPEGImages/a.jpg", "SegmentationClassContext/a.png")
CONTEXT_59 = {raw: raw - 1 if raw else 255 for raw in range(60)}
CONTEXT_LIST = "ImageSets/SegmentationContext/val.txt"

CASES = [
    Case("folder", "train", "train/images/a.jpg", "train/labels/a.png", FOLDER),
    Case("folder", "val", "images/val/a.JPG", "masks/val/a.png", FOLDER),
    Case("folder", "val", "images/val/a.jpg", "annotations/val/a.png", FOLDER),
    Case("camvid", "val", "val/images/a.jpg", "val/labels/a.png", CAMVID),
    Case("camvid", "train", "train/a.png", "trainannot/a.png", CAMVID),
    Case("cityscapes", "train", AACHEN_IMAGE, f"{AACHEN_MASK}_labelIds.png", CITYSCAPES),
    Case("cityscapes", "train", AACHEN_IMAGE, f"{AACHEN_MASK}_labelTrainIds.png", TRAIN_IDS),
    Case("ade20k", "train", "images/training/a.jpg", "annotations/training/a.png", ADE20K),
    Case("ade20k", "val", *(f"{ADE}/{path}" for path in ADE_VAL), ADE20K),
    Case(
        "pascal_context_59", "val", *(f"VOCdevkit/VOC2010/{path}" for path in CONTEXT), CONTEXT_59
    ),
    Case("pascal_context_60", "val", *CONTEXT, {raw: raw for raw in range(60)}),
]


def test_every_layout_has_a_case() -> None:
    assert {case.dataset for case in CASES} == set(DATASETS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.dataset}-{case.mask}")
def test_layout_gives_image_and_train_ids(tmp_path: Path, case: Case) -> None:
    if case.dataset == "folder":
        (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    raw = np.tile(list(case.labels), (3, 1))
    write_image(tmp_path / case.image, *raw.shape)
    write_mask(tmp_path / case.mask, raw)
    if case.dataset.startswith("pascal_context"):
        split_file = (tmp_path / case.mask).parents[1] / CONTEXT_LIST
        split_file.parent.mkdir(parents=True)
        split_file.write_text("a\r\n")

    dataset = create_dataset(case.dataset, tmp_path, case.split)
    assert len(dataset) == 1
    image, mask, name = dataset[0]
    assert image.shape == (*raw.shape, 3)
    assert image.dtype == mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.tile(list(case.labels.values()), (3, 1)))
    assert name == ("aachen_000000_000019" if case.dataset == "cityscapes" else "a")
    check_samples(dataset, [0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven good pairs of 2x3 pixels with labels 0 and 1, in a folder of two classes."""
    for name in "abcdefg":
        write_image(tmp_path / f"train/images/{name}.png", 2, 3)
        write_mask(tmp_path / f"train/labels/{name}.png", [[0, 1, 0], [1, 1, 255]])
    (tmp_path / "classes.txt").write_text("ground\nsky\n")
    return tmp_path


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    "text",
    [
        "train/images/a.png\ttrain/labels/a.png\r\n\r\ntrain/images/b.png\ttrain/labels/b.png\r\n",
        "train/images/a.png   train/labels/a.png  \n  train/images/b.png\ttrain/labels/b.png",
        "train/images/a.png,train/labels/a.png\ntrain/images/b.png , train/labels/b.png\n",
        "\ufefftrain/images/a.png train/labels/a.png\ntrain/images/b.png train/labels/b.png\n",
    ],
    ids=["tabs and CRLF", "spaces", "commas", "byte order mark"],
)
def test_list_file(root: Path, text: str) -> None:
    (root / "mine.txt").write_bytes(text.encode())
    dataset = create_dataset("folder", root, "mine.txt")
    assert [dataset[index][2] for index in (0, 1)] == ["train/images/a", "train/images/b"]
    check_samples(dataset, [0, 1])


def test_list_file_with_spaces_in_names(root: Path) -> None:
    (root / "train/images/a.png").rename(root / "train/images/a 1.png")
    (root / "mine.txt").write_text("train/images/a 1.png\ttrain/labels/a.png\n")
    assert len(create_dataset("folder", root, "mine.txt")) == 1


A, B = (f"train/{{}}/{name}.png" for name in "ab")


@pytest.mark.parametrize("name", ["mine.csv", "mine.TSV", "mine.lst", "mine.txt"])
@pytest.mark.parametrize(
    ("header", "separator", "quote"),
    [
        ("Image,Mask", ",", ""),
        ("filename;label", ";", '"'),
        ("Image Path\tMask Path\r", "\t", ""),
        ("image mask", " ", ""),
        ("# written by hand\n\n#image mask", "   ", ""),
        ('\ufeff"IMG_FILE", "Annotation"', ", ", '"'),
        ("Bild;Maske", ";", ""),
    ],
)
def test_list_file_with_header(
    root: Path, name: str, header: str, separator: str, quote: str
) -> None:
    lines = [
        separator.join(quote + pattern.format(kind) + quote for kind in ("images", "labels"))
        for pattern in (A, B)
    ]
    (root / name).write_bytes("\r\n".join([header, *lines, "# end", ""]).encode())
    dataset = create_dataset("folder", root, name)
    assert [pair.name for pair in dataset.pairs] == ["train/images/a", "train/images/b"]
    check_samples(dataset, [0, 1])


def test_list_file_may_have_more_columns_if_they_are_named(root: Path) -> None:
    rows = f"id,Label_File,Image_File,split\n1,{A.format('labels')},{A.format('images')},train\n"
    (root / "mine.csv").write_text(rows)
    (pair,) = create_dataset("folder", root, "mine.csv").pairs
    assert (pair.image, pair.mask) == (root / A.format("images"), root / A.format("labels"))


def test_names_in_lists_may_have_another_unicode_form(root: Path) -> None:
    """A list typed on Linux (NFC) names files that came from macOS (NFD)."""
    (root / "train/images/a.png").rename(root / unicodedata.normalize("NFD", "train/images/ä.png"))
    (root / "mine.txt").write_text("train/images/ä.png train/labels/a.png\n", encoding="utf-8")
    dataset = create_dataset("folder", root, "mine.txt")
    check_samples(dataset, [0])
    assert dataset[0][2] == "train/images/ä"


@pytest.mark.parametrize("folder", ["train", "train/images"])
def test_images_and_masks_in_one_folder(root: Path, folder: str) -> None:
    for path in [*(root / "train/labels").iterdir()]:
        path.rename(root / folder / f"{path.stem}_mask.png")
    (root / "train/labels").rmdir()
    if folder == "train":
        for path in [*(root / "train/images").iterdir()]:
            path.rename(root / "train" / f"{path.stem}_sat.png")
        (root / "train/images").rmdir()
    dataset = create_dataset("folder", root, "train")
    assert len(dataset) == 7
    check_samples(dataset, range(7))


def test_rule_and_skipped_files_are_logged_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in [*(root / "train/labels").iterdir()]:
        (root / "train/labels/far").mkdir(exist_ok=True)
        path.rename(root / "train/labels/far" / f"{path.stem}_gt.png")
    for path in [*(root / "train/images").iterdir()]:
        (root / "train/images/far").mkdir(exist_ok=True)
        path.rename(root / "train/images/far" / path.name)
    for name in ("x.json", "y.json", "._a.png", "Thumbs.db"):
        (root / "train/images" / name).touch()
    with caplog.at_level(logging.INFO, "sceneparse"):
        dataset = create_dataset("folder", root, "train")
    assert [pair.name for pair in dataset.pairs] == [f"far/{name}" for name in "abcdefg"]
    rule, skipped = caplog.messages
    assert "names of images and masks differ; paired 'far/a' with 'far/a_gt'" in rule
    assert skipped.endswith("train/images: skipped 2 .json, 1 ._*, 1 Thumbs.db")


LIST_FAULTS = {
    "id;url;drawn\n1;a.png;b.png": r"line 1: expected .*, got 'id, url, drawn'; name the columns",
    "img,photo,mask\na.png,b.png,c.png": r"two columns could be 'image': img, photo, mask",
    "train/images/../../../a.png x.png": r"mine\.txt: 'train/images/\.\./.*' lies outside",
    "a.png/.. b.png": "is a folder; expected an image",
    f"{'a' * 300}.png train/labels/a.png": r"1 masks have no image: a\.png",
    "a\x1b[2J.png": r"line 1: expected 'image mask', got 'a\\x1b\[2J\.png'",
    "a\x85b.png c.png": "expected 'image mask', got 'a'",
    "../a.png train/labels/a.png": r"mine\.txt: '\.\./a\.png' lies outside the data folder",
    "train/images/a.png /etc/a.png": r"mine\.txt: '/etc/a\.png' lies outside the data folder",
    "train/images/a.png": r"mine\.txt, line 1: expected 'image mask', got 'train/images/a\.png'",
    "train/images/x.png train/labels/a.png": r"1 masks have no image: a\.png; .*x\.png",
    "train/images/a.png train/labels/x.png": r"1 images have no mask: a\.png; .*x\.png",
    "a.png b.png\na.png c.png": r"mine\.txt: 1 names occur twice: a",
    " \r\n": r"mine\.txt' of .+ is empty",
}


@pytest.mark.fault(20)
@pytest.mark.parametrize("text", LIST_FAULTS)
def test_list_file_fault_is_named(root: Path, text: str) -> None:
    (root / "mine.txt").write_text(text)
    with pytest.raises(InputError, match=LIST_FAULTS[text]):
        create_dataset("folder", root, "mine.txt")


@pytest.mark.parametrize("dataset", ["folder", "camvid", "ade20k", "pascal_context_59"])
@pytest.mark.parametrize("split", ["../outside", "a/../../outside", "/outside", "../x.txt"])
def test_split_outside_of_the_root_is_refused(root: Path, dataset: str, split: str) -> None:
    with pytest.raises(InputError, match=r"the split: '.*' lies outside the data folder"):
        create_dataset(dataset, root, split)


def test_links_in_the_root_may_lead_out(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever put them there allowed it: large datasets often lie elsewhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / "train").rename(elsewhere / "train")
    (root / "train").symlink_to(elsewhere / "train")
    (root / "mine.txt").write_text("train/images/a.png train/labels/a.png\n")
    for split in ("train", "mine.txt"):
        dataset = create_dataset("folder", root, split)
        check_samples(dataset, range(len(dataset)))


@pytest.mark.parametrize("name", ["../../../outside/a", "/outside/a"])
def test_list_of_voc_names_no_files_outside(tmp_path: Path, name: str) -> None:
    """Results are written under these names."""
    (tmp_path / CONTEXT_LIST).parent.mkdir(parents=True)
    (tmp_path / CONTEXT_LIST).write_text(f"{name}\n")
    with pytest.raises(InputError, match="lies outside the data folder"):
        create_dataset("pascal_context_60", tmp_path, "val")


@pytest.mark.parametrize(
    "name",
    ["", "\x1b]0;owned\x07", "x" * 300, "a\u202eb"],
    ids=["empty", "control", "long", "bidi"],
)
def test_names_of_classes_are_text(root: Path, name: str) -> None:
    with pytest.raises(InputError, match="a class needs a name of"):
        create_dataset("folder", root, "train", ["ground", name])


def remove_files(root: Path, *folders: str) -> None:
    for path in [path for folder in folders for path in (root / "train" / folder).iterdir()]:
        path.unlink()


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda root: remove_files(root, "labels"),
        r"7 images have no mask: a\.png, b\.png, c\.png, d\.png, e\.png and 2 more;",
    ),
    (
        lambda root: remove_files(root, "images"),
        r"7 masks have no image: a\.png, .*, e\.png and 2 more;",
    ),
    (lambda root: remove_files(root, "images", "labels"), r"split 'train' of .* is empty"),
    (
        lambda root: write_image(root / "train/images/b.jpg", 2, 3),
        r"train/images: 1 names occur twice: b",
    ),
    (
        lambda root: write_mask(root / "train/labels/b.tif", [[0]]),
        r"train/labels: 1 names occur twice: b",
    ),
    (
        lambda root: (root / "train/labels").rename(root / "train/ids"),
        r"no mask folder beside .*train/images; expected one of labels, masks, annotations",
    ),
]


@pytest.mark.fault(20)
@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_fault_of_files_is_counted(
    root: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(root)
    with pytest.raises(InputError, match=message):
        create_dataset("folder", root, "train")


def test_cityscapes_and_pascal_context_name_what_is_missing(tmp_path: Path) -> None:
    for number in (1, 2):
        write_image(tmp_path / f"leftImg8bit/val/bonn/bonn_{number}_leftImg8bit.png", 2, 3)
    write_mask(tmp_path / "gtFine/val/bonn/bonn_1_gtFine_labelIds.png", [[7]])
    with pytest.raises(InputError, match=r"^1 images have no mask: bonn_2_leftImg8bit\.png;"):
        create_dataset("cityscapes", tmp_path, "val")
    (tmp_path / CONTEXT_LIST).parent.mkdir(parents=True)
    (tmp_path / CONTEXT_LIST).write_text("2008_000002\n")
    with pytest.raises(InputError, match=r"1 listed samples have neither .*: .*2008_000002\.jpg"):
        create_dataset("pascal_context_60", tmp_path, "val")
    write_image(tmp_path / "JPEGImages/2008_000002.jpg", 2, 3)
    with pytest.raises(InputError, match=r"1 images have no mask: 2008_000002\.jpg;"):
        create_dataset("pascal_context_60", tmp_path, "val")


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_missing_root_and_split_are_named(root: Path, dataset: str) -> None:
    message = r"data folder 'nowhere' does not exist; give the folder of a dataset"
    with pytest.raises(InputError, match=message):
        create_dataset(dataset, "nowhere", "train")
    with pytest.raises(InputError, match="is a file; give the folder of the dataset"):
        create_dataset(dataset, root / "classes.txt", "train")
    if dataset != "folder":
        (root / "classes.txt").unlink()
    with pytest.raises(InputError, match="missing_split"):
        create_dataset(dataset, root, "missing_split")


@pytest.mark.fault(6)
def test_unknown_data_set_lists_the_valid_ones(root: Path) -> None:
    names = ", ".join(sorted(DATASETS))
    with pytest.raises(InputError, match=f"unknown dataset 'ade2k'; choose one of: {names}$"):
        create_dataset("ade2k", root, "train")


def test_classes_go_with_a_folder_only(root: Path) -> None:
    (root / "classes.txt").unlink()
    assert create_dataset("folder", root, "train", ["a", "b"]).table.names == ["a", "b"]
    with pytest.raises(InputError, match=r"data\.classes is for dataset 'folder' only; 'camvid'"):
        create_dataset("camvid", root, "train", ["a", "b"])


@pytest.mark.fault(18)
def test_size_mismatch_tells_both_sizes(root: Path) -> None:
    write_mask(root / "train/labels/a.png", [[0, 1]])
    with pytest.raises(InputError, match=r"labels/a\.png: mask is 2x1 but .*images/a\.png is 3x2"):
        create_dataset("folder", root, "train")[0]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_of_a_sideways_image_is_explained(root: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.array([[0, 1, 0], [1, 1, 255]], np.uint8)
    Image.new("RGB", (3, 2)).save(root / "train/images/a.png", exif=exif)
    dataset = create_dataset("folder", root, "train")
    message = rf"stored sideways \(EXIF orientation {orientation}\) and this mask fits the stored"
    with pytest.raises(InputError, match=rf"labels/a\.png: .*images/a\.png is {message}") as caught:
        dataset[0]
    # What the message says is what Pillow does with the image.
    turned = stored[:, ::-1] if "mirror the mask left to right" in str(caught.value) else stored
    turned = np.rot90(turned, 1 if "counter-clockwise" in str(caught.value) else -1)
    Image.fromarray(stored).save(root / "stored.png", exif=exif)
    with Image.open(root / "stored.png") as image:
        assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(image)))
    write_mask(root / "train/labels/a.png", turned)
    assert np.array_equal(dataset[0][1], turned)


def test_transparent_pixels_are_ignored_whatever_the_table_holds(tmp_path: Path) -> None:
    """ADE20K's table ends at 150: no raw value stands for void but 0."""
    write_image(tmp_path / "images/validation/a.jpg", 2, 3)
    grey, alpha = np.array([[1, 150, 200], [0, 3, 255]]), np.array([[255, 255, 0], [255, 0, 0]])
    (tmp_path / "annotations/validation").mkdir(parents=True)
    mask = Image.fromarray(np.dstack([grey, alpha]).astype(np.uint8))
    mask.save(tmp_path / "annotations/validation/a.png")
    dataset = create_dataset("ade20k", tmp_path, "val")
    assert dataset[0][1].tolist() == dataset.mask(0).tolist() == [[0, 149, 255], [255, 255, 255]]


@pytest.mark.fault(19)
def test_label_out_of_range_is_counted(root: Path) -> None:
    write_mask(root / "train/labels/b.png", [[0, 2, 9], [9, 9, 255]])
    dataset = create_dataset("folder", root, "train")
    with pytest.raises(InputError, match=r"labels/b\.png: .* 2 \(1 px\), 9 \(3 px\); valid are 3 "):
        dataset[1]


def everything(root: Path) -> tuple[SegmentationDataset, range]:
    dataset = create_dataset("folder", root, "train")
    return dataset, range(len(dataset))


def test_check_raises_the_only_problem_or_counts_several(root: Path) -> None:
    check_samples(*everything(root))
    (root / "train/images/c.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"^[^ ]*train/images/c\.png: not an image file"):
        check_samples(*everything(root))
    write_mask(root / "train/labels/e.png", [[7]])
    with pytest.raises(
        InputError, match=r"^2 of 7 samples cannot be used: .*c\.png: .*, .*e\.png: mask is 1x1"
    ):
        check_samples(*everything(root))
    check_samples(everything(root)[0], [0, 1])


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[0, 255, 0], [0, 255, 0]], r"hold only 0 and 255, .* second class, store it as 1"),
        ([[255, 255, 255], [255, 255, 255]], r"every pixel of the masks is ignored"),
    ],
)
def test_check_refuses_masks_that_teach_nothing(root: Path, mask: object, message: str) -> None:
    for path in (root / "train/labels").iterdir():
        write_mask(path, mask)
    with pytest.raises(InputError, match=message):
        check_samples(*everything(root))
    write_mask(root / "train/labels/d.png", [[0, 1, 0], [1, 1, 255]])
    check_samples(*everything(root))


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [(3, 500, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (1001, 3, [0, 500, 1000]), (5, 1, [0])],
)
def test_spread_is_even_and_keeps_both_ends(size: int, limit: int, expected: list[int]) -> None:
    assert spread(size, limit) == expected


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101), ("test", 233)])
def test_real_camvid(shared: Path, split: str, count: int) -> None:
    dataset = create_dataset("camvid", shared / "data/camvid", split)
    assert len(dataset) == count
    image, mask, _ = dataset[count // 2]
    assert image.shape == (360, 480, 3)
    raw = cv2.imread(str(dataset.pairs[count // 2].mask), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, np.where(raw == 11, 255, raw))


def test_real_ade20k(shared: Path) -> None:
    dataset = create_dataset("ade20k", shared / "data/ade20k", "val")
    assert len(dataset) == 5
    for index, pair in enumerate(dataset.pairs):
        image, mask, name = dataset[index]
        raw = cv2.imread(str(pair.mask), cv2.IMREAD_UNCHANGED).astype(int)
        np.testing.assert_array_equal(mask, np.where(raw == 0, 255, raw - 1))
        assert set(np.unique(mask)) <= {*range(150), 255}
        assert image.shape == (*raw.shape, 3)
        assert name.startswith("ADE_val_")
