"""Images found below a folder, and paired with masks whose names differ by a rule."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from sceneparse.data.datasets import create_dataset
from sceneparse.data.image_folders import load_classes
from sceneparse.data.pairing import Pairing, find_images, pair_folders, relative_name
from sceneparse.errors import InputError
from sceneparse.inference.inputs import find_sources

NFC, NFD = (unicodedata.normalize(form, "Pfütze") for form in ("NFC", "NFD"))


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(pairing: Pairing, root: Path) -> dict[str, str]:
    """Return image -> mask, both as paths below the root."""
    return {
        pair.image.relative_to(root).as_posix(): pair.mask.relative_to(root).as_posix()
        for pair in pairing.pairs
    }


def paired(root: Path, images: list[str], masks: list[str]) -> tuple[dict[str, str], str | None]:
    """Pair images in one folder with masks in another, all of them present."""
    fill(root / "i", *images)
    fill(root / "m", *masks)
    pairing = pair_folders(root / "i", root / "m")
    found = {pair.image.relative_to(root / "i").as_posix(): pair.mask for pair in pairing.pairs}
    return {i: m.relative_to(root / "m").as_posix() for i, m in found.items()}, pairing.rule


def test_images_are_found_recursively_and_the_rest_is_counted(tmp_path: Path) -> None:
    images = ["a.JPG", "b.jfif", "x y/c.tiff", "x y/z/d.png", "e.gif"]
    rest = ["._a.JPG", ".hidden.png", ".ipynb_checkpoints/a.png", "x y/Thumbs.db", "x y/notes.TXT"]
    fill(tmp_path, *images, *rest, "__MACOSX/a.png", "README", "x y/more.txt", "photo.heic")
    found, skipped = find_images(tmp_path)
    assert found == sorted(tmp_path / name for name in images)
    assert skipped == {
        **{"._*": 1, ".hidden.png": 1, ".ipynb_checkpoints": 1, "Thumbs.db": 1, ".txt": 2},
        **{"__MACOSX": 1, "without suffix": 1, ".heic": 1},
    }
    with pytest.raises(InputError, match=r"folder '.*nowhere' does not exist"):
        find_images(tmp_path / "nowhere")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "disk", "one/a.png", "two/b.png")
    images = fill(tmp_path / "data/train/images", "c.png")
    (images / "linked").symlink_to(elsewhere)
    (images / "file.png").symlink_to(elsewhere / "one/a.png")
    # Circles: into itself, into a folder above, and one through two links.
    (images / "self").symlink_to(images)
    (images / "above").symlink_to(tmp_path / "data")
    (elsewhere / "one/two").symlink_to(elsewhere / "two")
    (elsewhere / "two/one").symlink_to(elsewhere / "one")
    found, skipped = find_images(images)
    assert [relative_name(images, path) for path in found] == sorted(
        ["c", "file", "linked/one/a", "linked/one/two/b", "linked/two/b", "linked/two/one/a"]
    )
    assert skipped == {"links to a folder above": 4}


RULES = [  # names of an image and its mask; * is what differs between the samples
    *[("*.jpg", f"*{suffix}.png") for suffix in ("_mask", "_masks", "_L", "_gt", "_GT", "_label")],
    *[("*.jpg", f"*{suffix}.png") for suffix in ("_labels", "_seg", "-mask", ".mask", " mask")],
    *[("*.jpg", f"*{suffix}.png") for suffix in ("_segmentation", "_annotation", "Mask", "mask")],
    *[("*.jpg", f"*{suffix}.png") for suffix in ("_labelIds", "_train_id", "_ground_truth")],
    *[("*.jpg", f"{prefix}*.png") for prefix in ("mask_", "gt-", "label ", "Mask_", "GT_")],
    ("*_leftImg8bit.png", "*_gtFine_labelIds.png"),
    ("*_rgb_anon.png", "*_gt_labelTrainIds.png"),
    ("*_image.png", "*_annotation.png"),
    ("*_sat.jpg", "*_mask.png"),
    ("*_RGB.tif", "*_label.tif"),
    ("img_*.jpg", "mask_*.png"),
    ("image*.jpg", "label*.png"),
    ("*_img.jpg", "*.png"),
    ("a_camera_*.jpg", "a_label_*.png"),
    ("run_*.jpg", "run_gt_*.png"),
    ("*.jpg", "*_mask.gif"),
    ("*_training.tif", "*_manual1.gif"),
]
STEMS = {
    "numbers": ["1", "2", "11", "111", "12"],
    "zeros": ["0001", "0010", "0100"],
    "words": ["street", "street_2", "street 3 (1)", "street.v2", "Street-4"],
    "folders": ["b/7", "a/7", "a/b/7", "c_8"],
    "one": ["20180807"],
    "misleading": ["masked_owl", "label_printer_7", "image_of_gt", "l"],
}


@pytest.mark.parametrize("stems", STEMS)
@pytest.mark.parametrize("rule", RULES, ids=" ".join)
def test_one_rule_pairs_all(tmp_path: Path, rule: tuple[str, str], stems: str) -> None:
    images, masks = ([in_folder(part, stem) for stem in STEMS[stems]] for part in rule)
    expected = dict(zip(images, masks, strict=True))
    found, text = paired(tmp_path, images, masks)
    assert found == expected
    assert text is not None
    first = min(images)
    assert Path(first).stem in text


def in_folder(pattern: str, stem: str) -> str:
    """Put a stem into the pattern of a name; folders come before it."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + pattern.replace("*", name)


@pytest.mark.parametrize(
    "rule", [("*.jpg", "*_mask.png"), ("*_sat.jpg", "*_mask.png"), ("img_*.png", "label_*.png")]
)
@pytest.mark.parametrize("stems", ["numbers", "words", "folders"])
def test_images_and_masks_in_one_folder(tmp_path: Path, rule: tuple[str, str], stems: str) -> None:
    images, masks = ([in_folder(part, stem) for stem in STEMS[stems]] for part in rule)
    fill(tmp_path, *images, *masks, "notes.txt")
    pairing = pair_folders(tmp_path, tmp_path)
    assert named(pairing, tmp_path) == dict(zip(images, masks, strict=True))
    assert pairing.skipped == {".txt": 1}


def test_all_commands_find_the_same_files(tmp_path: Path) -> None:
    """Training, checks and classification of class folders, and prediction."""
    disk = tmp_path / "disk"
    for path in (disk / f"{kind}/{NFD}.png" for kind in ("images", "labels")):
        path.parent.mkdir(parents=True)
        Image.new("L", (4, 4)).save(path)
    for split in ("train/images", "train/labels", "classes/day", "classes/night"):
        folder = tmp_path / split
        fill(folder, ".ipynb_checkpoints/a.png", "inner/._b.png", "__MACOSX/c.png")
        (folder / "linked").symlink_to(disk / ("labels" if "labels" in split else "images"))
    (tmp_path / "classes/.ipynb_checkpoints").mkdir()
    name = f"linked/{NFC}"
    dataset = create_dataset("folder", tmp_path, "train", ["a", "b"])
    assert [dataset[0][2], len(dataset)] == [name, 1]
    assert [s.name for s in find_sources([str(tmp_path / "train/images")])] == [name]
    data = load_classes("folder", tmp_path, "classes", 4)
    assert (data.classes, data.targets.tolist()) == (["day", "night"], [0, 1])


def test_equal_names_need_no_rule(tmp_path: Path) -> None:
    names = ["x", "x_mask", "a/x", "a/mask_x", "gt"]
    found, rule = paired(tmp_path, [f"{n}.jpg" for n in names], [f"{n}.png" for n in names])
    assert found == {f"{n}.jpg": f"{n}.png" for n in names}
    assert rule is None


def test_unicode_forms_are_one_name(tmp_path: Path) -> None:
    found, rule = paired(tmp_path, [f"{NFD}/{NFD}.jpg", "b.jpg"], [f"{NFC}/{NFC}.png", "b.png"])
    assert found == {f"{NFD}/{NFD}.jpg": f"{NFC}/{NFC}.png", "b.jpg": "b.png"}
    assert rule is None
    pairs = pair_folders(tmp_path / "i", tmp_path / "m").pairs
    assert {pair.name for pair in pairs} == {f"{NFC}/{NFC}", "b"}
    found, rule = paired(tmp_path / "2", [f"{NFC}.jpg", "b.jpg"], [f"{NFD}_gt.png", "b_gt.png"])
    assert found == {f"{NFC}.jpg": f"{NFD}_gt.png", "b.jpg": "b_gt.png"}


def test_a_missing_partner_stays_missing(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "a.jpg", "b.jpg", "c/a.jpg")
    masks = fill(tmp_path / "m", "a.png", "d.png", "c/b.png")
    pairs = named(pair_folders(images, masks), tmp_path)
    assert pairs == {
        **{"i/a.jpg": "m/a.png", "i/b.jpg": "m/b.png", "i/c/a.jpg": "m/c/a.png"},
        **{"i/d.jpg": "m/d.png", "i/c/b.jpg": "m/c/b.png"},
    }


def test_a_rule_that_pairs_most_names_what_is_missing(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "a.jpg", "b.jpg", "c.jpg")
    masks = fill(tmp_path / "m", "a_mask.png", "b_mask.png")
    pairing = pair_folders(images, masks)
    assert [p.mask.is_file() for p in pairing.pairs] == [True, True, False]
    assert pairing.rule is not None
    assert "'a' with 'a_mask'" in pairing.rule


def test_few_masks_among_many_images(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(30)]
    images = fill(tmp_path / "i", *(f"{name}.jpg" for name in names))
    masks = fill(tmp_path / "m", *(f"{name}_mask.png" for name in names[::6]))
    for folders in ((images, masks), (masks, masks)):
        pairs = pair_folders(*folders).pairs
        assert [p.name for p in pairs if p.mask.is_file()] == names[::6]
        assert [p.name for p in pairs if p.image.is_file()] == names
        fill(masks, *(f"{name}.jpg" for name in names))


FAULTS: list[tuple[list[str], list[str], str]] = [
    (["a.jpg", "a.png"], ["a.png"], r"i: 1 names occur twice: a \(a\.jpg, a\.png\)"),
    ([f"{NFC}.jpg", f"{NFD}.jpg"], [f"{NFC}.png"], "1 names occur twice"),
    (["a.jpg"], ["a.png", "a_mask.png"], r"two masks fit .*a\.jpg: a\.png and a_mask\.png"),
    (["a.jpg"], ["a_L.png", "a_mask.png"], r"two rules .*: 'a' with 'a_L', or 'a' with 'a_mask'"),
    (
        ["1.jpg", "2.jpg"],
        ["1_gt.png", "1_mask.png", "2_gt.png", "2_mask.png"],
        r"two rules .*: '1' with '1_gt', or '1' with '1_mask'",
    ),
    (
        ["1.jpg", "2.jpg"],
        ["1_gt.png", "2_gt.png", "1_mask.png"],
        r"two masks fit .*1\.jpg: 1_gt\.png and 1_mask\.png",
    ),
]


@pytest.mark.parametrize(("images", "masks", "message"), FAULTS)
def test_ambiguous_names_are_refused(
    tmp_path: Path, images: list[str], masks: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        paired(tmp_path, images, masks)


def test_two_rules_that_differ_are_refused(tmp_path: Path) -> None:
    """Either could be the photo, and either the mask painted in colours."""
    fill(tmp_path, "1_color.png", "1_colour.png", "2_color.png", "2_colour.png")
    message = r"differently: '1_colour' with '1_color', or '1_color' with '1_colour';"
    with pytest.raises(InputError, match=message):
        pair_folders(tmp_path, tmp_path)


def test_one_folder_without_a_rule_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    with pytest.raises(InputError, match="no part of their names tells them apart"):
        pair_folders(tmp_path, tmp_path)


def test_random_names_never_pair_wrongly(tmp_path: Path) -> None:
    """Names from few parts, so that they often nearly fit; a pair must share all other parts."""
    generator = random.Random(0)
    marks = ["mask", "gt", "L", "image", "img", "labelIds"]
    rest = ["a", "1", "11"]
    outcomes = {"equal": 0, "rule": 0, "missing": 0, "refused": 0}
    for number in range(300):
        root = tmp_path / str(number)
        sides = [
            ["_".join(generator.choices(marks + rest, k=generator.randint(1, 3))) for _ in "ab"]
            for _ in range(2)
        ]
        if number % 3 == 0:  # the masks of these images, under a rule
            sides[1] = [f"{name}_gt" for name in sides[0]]
        images, masks = ([f"{name}.png" for name in dict.fromkeys(side)] for side in sides)
        try:
            found, rule = paired(root, images, masks)
        except InputError:
            outcomes["refused"] += 1
            continue
        both = {i: m for i, m in found.items() if i in images and m in masks}
        assert len(set(both.values())) == len(both)
        for image, mask in both.items():
            if rule is None:
                assert image == mask
            else:
                assert plain_parts(image, marks) == plain_parts(mask, marks)
        complete = len(both) == len(images) == len(masks)
        outcomes["missing" if not complete else "equal" if rule is None else "rule"] += 1
        if number % 3 == 0:
            assert both == {f"{name}.png": f"{name}_gt.png" for name in sides[0]}
    assert min(outcomes["rule"], outcomes["missing"], outcomes["refused"]) > 3, outcomes


def plain_parts(name: str, marks: list[str]) -> list[str]:
    return [part for part in Path(name).stem.split("_") if part not in marks]


def test_folders_that_no_name_tells_apart_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "bilder/a.png", "masken/a.png")
    with pytest.raises(InputError, match=r"names of its folders \(bilder, masken\)"):
        pair_folders(tmp_path, tmp_path)
