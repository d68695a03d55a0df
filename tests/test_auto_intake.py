"""Any folder becomes a training and a validation split: in place, or linked and split."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sceneparse.auto.intake import PROPOSAL, Intake, take_in
from sceneparse.auto.splitting import split_items, val_share
from sceneparse.data.formats.shared.source import Item
from sceneparse.errors import InputError
from tests.conversion import HEIGHT, WIDTH, save_images

VOC_RED, VOC_GREEN, VOC_OLIVE = (128, 0, 0), (0, 128, 0), (128, 128, 0)


def save_masks(folder: Path, names: list[str], *values: object) -> None:
    """Write masks of vertical stripes of these values: numbers, or colours."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        row = np.array(values, np.uint8).repeat(-(-WIDTH // len(values)), axis=0)[:WIDTH]
        Image.fromarray(np.stack([row] * HEIGHT)).save(folder / f"{name}.png")


def pairs_in(folder: Path, count: int, *values: object, first: int = 0) -> Path:
    """Write images of noise and masks into images/ and masks/ of a folder."""
    names = [f"{number:03}" for number in range(first, first + count)]
    save_images(folder / "images", ["x.png"] * first + [f"{name}.png" for name in names])
    (folder / "images" / "x.png").unlink(missing_ok=True)
    save_masks(folder / "masks", names, *values)
    return folder


def taken(source: Path, **options: Path) -> Intake:
    given = {"val": None, "classes": None} | options
    return take_in(source, source.with_name("output"), **given)


def labels_of(intake: Intake) -> tuple[set[int], set[int]]:
    """Return the train ids that both splits hold."""
    train, val = (
        {int(k) for i in range(len(part)) for k in np.unique(part[i][1])} for part in intake.open()
    )
    return train, val


def text_of(intake: Intake) -> str:
    return " ".join(intake.notes)


def names_in(intake: Intake) -> tuple[list[str], list[str]]:
    train, val = ([pair.name for pair in part.pairs] for part in intake.open())
    return train, val


def test_pairs_without_splits_are_split_repeatably_and_linked(tmp_path: Path) -> None:
    source = pairs_in(tmp_path / "data", 20, 0, 255)
    intake = taken(source)
    train, val = intake.open()
    assert (len(train), len(val)) == (13, 7)  # a third: ten would be half
    assert labels_of(intake) == ({0, 1}, {0, 1})
    assert "255 becomes class 1" in text_of(intake)
    image = train.pairs[0].image
    assert image.samefile(source / "images" / image.name)
    again = take_in(source, tmp_path / "again", val=None, classes=None)
    assert names_in(again) == names_in(intake)
    other = take_in(source, tmp_path / "other", val=None, classes=None, seed=1)
    assert names_in(other) != names_in(intake)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "output", "again", "other"}


@pytest.mark.parametrize(
    ("count", "val"), [(2, 1), (3, 1), (12, 4), (30, 10), (50, 10), (100, 20), (5000, 500)]
)
def test_validation_gets_a_fifth_but_ten_if_there_are_enough(count: int, val: int) -> None:
    assert round(val_share(count) * count) == val


def test_frames_of_a_video_are_not_mixed(tmp_path: Path) -> None:
    source = tmp_path / "data"
    random = np.random.default_rng(0)
    start, end = random.uniform(0, 255, (2, 8, 8, 3))
    names = [f"frame_{number}" for number in range(1, 31)]
    (source / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        # A pan from one scene to another, with noise: neighbours are related, ends are not.
        angle = number / 29 * np.pi / 2
        scene = start * np.cos(angle) + end * np.sin(angle) + random.normal(0, 15, (8, 8, 3))
        image = Image.fromarray(scene.clip(0, 255).astype(np.uint8)).resize((WIDTH, HEIGHT))
        image.save(source / "images" / f"{name}.png")
    save_masks(source / "masks", names, 0, 1)
    numbers = sorted(int(name.split("_")[1]) for name in names_in(taken(source))[1])
    gaps = np.diff(numbers)
    assert len(numbers) == 10
    assert (gaps > 1).sum() <= 1  # one or two blocks


def folder_layout(source: Path, splits: list[str], *values: object) -> Path:
    for k, split in enumerate(splits):
        pairs_in(source / split, 3, *values, first=3 * k)
        (source / split / "masks").rename(source / split / "labels")
    (source / "classes.txt").write_text("ground\nroad\n", "utf-8")
    return source


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation")])
def test_the_folder_layout_is_used_in_place(tmp_path: Path, names: tuple[str, str]) -> None:
    source = folder_layout(tmp_path / "data", [*names, "test"], 0, 1)
    intake = taken(source)
    assert (intake.dataset, intake.root) == ("folder", source)
    assert (intake.train_split, intake.val_split) == names
    assert "neither trained on nor looked at: test" in text_of(intake)
    assert not (tmp_path / "output").exists()


def test_the_folder_layout_without_val_is_split_and_its_test_left_alone(tmp_path: Path) -> None:
    source = folder_layout(tmp_path / "data", ["train", "test"], 0, 1)
    intake = taken(source)
    assert sorted([*names_in(intake)[0], *names_in(intake)[1]]) == ["000", "001", "002"]
    assert "looked at: test" in text_of(intake)
    assert intake.open()[0].table.names == ["ground", "road"]


def test_the_folder_layout_with_masks_of_0_and_255_is_converted(tmp_path: Path) -> None:
    intake = taken(folder_layout(tmp_path / "data", ["train", "valid", "test"], 0, 255))
    assert labels_of(intake) == ({0, 1}, {0, 1})
    assert names_in(intake) == (["000", "001", "002"], ["003", "004", "005"])
    assert "looked at: 3 images of the test split" in text_of(intake)


def test_known_datasets_are_recognised_by_their_folders(tmp_path: Path) -> None:
    camvid, ade = tmp_path / "camvid", tmp_path / "ade"
    for split in ("train", "val", "test"):
        save_images(camvid / split, ["0001TP_000001.png"])
        save_masks(camvid / f"{split}annot", ["0001TP_000001"], 0, 3, 11)
    for split in ("training", "validation"):
        save_images(ade / "ADEChallengeData2016/images" / split, [f"ADE_{split}_1.jpg"])
        save_masks(ade / "ADEChallengeData2016/annotations" / split, [f"ADE_{split}_1"], 0, 9)
    city = tmp_path / "city"
    for split in ("train", "val"):
        save_images(city / "leftImg8bit" / split / "a", ["a_1_leftImg8bit.png"])
        save_masks(city / "gtFine" / split / "a", ["a_1_gtFine_labelIds"], 7, 8)
    voc = tmp_path / "context" / "VOC2010"
    save_images(voc / "JPEGImages", ["1.jpg", "2.jpg"])
    save_masks(voc / "SegmentationClassContext", ["1", "2"], 1, 2)
    for number, split in enumerate(("train", "val")):
        path = voc / "ImageSets/SegmentationContext" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number + 1}\n", "utf-8")
    expected = {"camvid": camvid, "ade20k": ade, "cityscapes": city}
    for name, source in {**expected, "pascal_context_59": voc.parent}.items():
        intake = taken(source)
        assert (intake.dataset, intake.train_split, intake.val_split) == (name, "train", "val")
        assert [len(part) for part in intake.open()] == [1, 1]
        with pytest.raises(InputError, match="has its own classes, so leave out --classes"):
            taken(source, classes=tmp_path / "classes.txt")
    assert not (tmp_path / "output").exists()


def test_an_annotation_file_is_converted(tmp_path: Path) -> None:
    source = save_images(tmp_path / "data", ["a.png", "b.png", "c.png"])
    box = {"segmentation": [[2, 2, 12, 2, 12, 9, 2, 9]], "bbox": [2, 2, 10, 7], "iscrowd": 0}
    images = [
        {"id": k, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
        for k, name in enumerate("abc")
    ]
    annotations = [{"id": k, "image_id": k, "category_id": 1, "area": 70, **box} for k in range(3)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "road"}],
    }
    (source / "instances.json").write_text(json.dumps(content), "utf-8")
    for given in (source, source / "instances.json"):
        intake = take_in(given, tmp_path / f"output_{given.stem}", val=None, classes=None)
        assert intake.open()[0].table.names == ["background", "road"]
        assert sorted(map(len, intake.open())) == [1, 2]


def test_colours_of_no_table_are_proposed_and_used(tmp_path: Path) -> None:
    source = pairs_in(tmp_path / "data", 6, (0, 0, 0), (255, 0, 0), (10, 20, 30))
    intake = taken(source)
    table = tmp_path / "output" / PROPOSAL
    assert sorted(table.read_text("utf-8").split()) == [
        *("background,0,0,0", "color_0a141e,10,20,30", "red,255,0,0"),
    ]
    assert "proposed classes: background (0,0,0)" in text_of(intake)
    assert labels_of(intake)[0] == {0, 1, 2}
    # Edited names are used.
    table.write_text("soil,0,0,0\ncrop,255,0,0\nweed,10,20,30\n", "utf-8")
    edited = take_in(source, tmp_path / "second", val=None, classes=table)
    assert edited.open()[0].table.names == ["soil", "crop", "weed"]


def test_a_known_palette_gives_its_names_and_its_void(tmp_path: Path) -> None:
    # Pascal VOC's colours, by its own formula: 1, 2, 3, and the outline.
    source = pairs_in(
        tmp_path / "data", 6, VOC_RED, VOC_GREEN, VOC_OLIVE, (0, 0, 128), (224, 224, 192)
    )
    intake = taken(source)
    assert intake.open()[0].table.names == ["aeroplane", "bicycle", "bird", "boat"]
    assert labels_of(intake)[0] == {0, 1, 2, 3, 255}
    assert "Pascal VOC" in text_of(intake)


def test_greys_that_are_no_class_numbers_are_proposed(tmp_path: Path) -> None:
    intake = taken(pairs_in(tmp_path / "data", 6, 0, 100, 200))
    assert intake.open()[0].table.names == ["background", "grey_100", "grey_200"]
    assert labels_of(intake)[0] == {0, 1, 2}


def held_out(source: Path) -> Path:
    """Move the last image and its mask into a folder beside the source."""
    target = source.with_name("held_out")
    for kind in ("images", "masks"):
        (target / kind).mkdir(parents=True)
        last = max((source / kind).iterdir())
        last.rename(target / kind / last.name)
    return target


@pytest.mark.parametrize(("suffix", "mode"), [(".jpg", "RGB"), (".png", "L")])
def test_black_and_white_masks_with_noise_or_smoothed_edges_are_two_classes(
    tmp_path: Path, suffix: str, mode: str
) -> None:
    source = tmp_path / "data"
    random = np.random.default_rng(0)
    (source / "masks").mkdir(parents=True)
    names = [f"{number:03}" for number in range(6)]
    for number, name in enumerate(names):
        small = random.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        (source / "images").mkdir(exist_ok=True)
        Image.fromarray(small).resize((240, 160)).save(source / "images" / f"{name}.png")
        mask = np.zeros((160, 240), np.uint8)
        mask[20 + number : 120, 60:200] = 255
        smooth = Image.fromarray(mask).rotate(3, Image.Resampling.BILINEAR)
        smooth.convert(mode).save(source / "masks" / f"{name}{suffix}")
    intake = taken(source)
    assert labels_of(intake) == ({0, 1}, {0, 1})
    assert intake.open()[0].table.names == ["background", "foreground"]
    assert "taken as the nearer of both" in text_of(intake)
    (tmp_path / "names.txt").write_text("soil\nroad\n", "utf-8")
    named = take_in(source, tmp_path / "named", val=None, classes=tmp_path / "names.txt")
    assert named.open()[0].table.names == ["soil", "road"]
    pairs = take_in(source, tmp_path / "val", val=held_out(source), classes=None)
    assert [len(part) for part in pairs.open()] == [5, 1]
    (source / "classes.txt").write_text("soil\nroad\nrock\n", "utf-8")
    with pytest.raises(InputError, match="names 3 classes, but the masks are black and white"):
        take_in(source, tmp_path / "three", val=None, classes=None)


def test_class_numbers_are_no_smoothed_black_and_white(tmp_path: Path) -> None:
    intake = taken(pairs_in(tmp_path / "data", 6, *range(15), 255))
    assert len(intake.open()[0].table.names) == 15


def test_smoothed_and_many_colours_are_no_table(tmp_path: Path) -> None:
    many = [(k, 255 - k, 3 * k % 256) for k in range(200)]
    source = pairs_in(tmp_path / "data", 6, *many[:32])
    for number in range(1, 6):
        part = many[32 * number : 32 * number + 32]
        save_masks(source / "masks", [f"{number:03}"], *part)
    with pytest.raises(InputError, match=r"holds colours, not class numbers.*--classes"):
        taken(source)
    smooth = pairs_in(tmp_path / "smooth", 6, (255, 0, 0), (0, 0, 255))
    for path in (smooth / "masks").glob("*.png"):
        large = Image.open(path).resize((40 * WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        large.save(path)
    with pytest.raises(InputError, match="holds colours, not class numbers"):
        taken(smooth)


def test_a_folder_for_validation_follows_the_names_of_the_source(tmp_path: Path) -> None:
    source = pairs_in(tmp_path / "data", 4, 0, 1, 2)
    (source / "classes.txt").write_text("soil\ncrop\nweed\n", "utf-8")
    val = pairs_in(tmp_path / "val", 3, 0, 1, 2, first=4)
    intake = taken(source, val=val)
    assert [len(part) for part in intake.open()] == [4, 3]
    assert intake.open()[1].table.names == ["soil", "crop", "weed"]
    # Its own order of names: labels are mapped by name.
    (val / "classes.txt").write_text("weed\nsoil\ncrop\n", "utf-8")
    mapped = take_in(source, tmp_path / "mapped", val=val, classes=None)
    mask = mapped.open()[1][0][1]
    assert [int(mask[0, x]) for x in (0, WIDTH // 2, WIDTH - 1)] == [2, 0, 1]


def test_a_folder_for_validation_is_refused_with_other_classes_or_the_same_images(
    tmp_path: Path,
) -> None:
    source = pairs_in(tmp_path / "data", 4, 0, 1)
    (source / "classes.txt").write_text("soil\ncrop\n", "utf-8")
    val = pairs_in(tmp_path / "val", 3, 0, 1, first=2)
    with pytest.raises(InputError, match=r"2 images of --val .* are training images too"):
        taken(source, val=val)
    other = pairs_in(tmp_path / "other", 3, 0, 1, 2, first=10)
    with pytest.raises(InputError, match="its mask holds 2, which are no classes"):
        taken(source, val=other)
    (other / "classes.txt").write_text("soil\ncrop\nrock\n", "utf-8")
    with pytest.raises(InputError, match="other classes than the training images"):
        taken(source, val=other)
    assert not (tmp_path / "output" / "data").exists()


def test_names_of_the_command_line_are_used(tmp_path: Path) -> None:
    source = folder_layout(tmp_path / "data", ["train", "val"], 0, 1)
    (tmp_path / "names.txt").write_text("sea\nship\n", "utf-8")
    intake = taken(source, classes=tmp_path / "names.txt")
    assert intake.open()[0].table.names == ["sea", "ship"]
    assert [len(part) for part in intake.open()] == [3, 3]


def test_bad_input_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    images = save_images(tmp_path / "photos", ["a.png", "b.png"])
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    cases = {
        tmp_path / "nowhere": "does not exist; give the folder",
        tmp_path / "empty": "is empty; give the folder that holds images and masks",
        tmp_path / "data.zip": "is an archive; unpack it",
        images: "holds 2 images, but no masks .* annotation file",
        images / "a.png": "is one image; give the folder",
        pairs_in(tmp_path / "one", 1, 0, 1): "1 image with a mask: at least 2 are needed",
        pairs_in(tmp_path / "same", 4, 0): "show class_0 only, of 2 classes",
        pairs_in(tmp_path / "void", 4, 255): "every pixel of the masks is 255, which means ignored",
    }
    for source, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            taken(source)
        assert len(caught.value.args) == 1
        assert not (tmp_path / "output").exists() or not any((tmp_path / "output").iterdir())


def test_an_earlier_try_and_an_output_inside_the_data_are_refused(tmp_path: Path) -> None:
    source = pairs_in(tmp_path / "data", 4, 0, 1)
    taken(source)
    with pytest.raises(InputError, match="exists from an earlier try; remove"):
        taken(source)
    with pytest.raises(InputError, match=r"lies in .* choose a folder outside with --output"):
        take_in(source, source / "auto", val=None, classes=None)


def test_of_several_splits_the_first_that_shows_every_class_on_both_sides_is_taken(
    tmp_path: Path,
) -> None:
    # Class 2 is on two of twenty masks only: most splits leave it on one side.
    for seed in range(6):
        source = pairs_in(tmp_path / f"data_{seed}", 20, 0, 1)
        save_masks(source / "masks", [f"{seed:03}", f"{seed + 9:03}"], 0, 1, 2)
        output = tmp_path / f"output_{seed}"
        assert labels_of(take_in(source, output, val=None, classes=None, seed=seed)) == (
            {0, 1, 2},
            {0, 1, 2},
        )


def test_many_images_are_split_in_blocks_without_decoding_them() -> None:
    nowhere = [Path(f"frame_{k}.png") for k in range(3000)]
    items = [Item(path, path.stem, lambda: np.zeros((2, 2), np.uint8)) for path in nowhere]
    split_of, notes = split_items(items, 2, 0)
    val = sorted(int(path.stem.split("_")[1]) for path, split in split_of.items() if split == "val")
    assert len(split_of) == 3000
    assert 480 <= len(val) <= 520
    assert (np.diff(val) > 1).sum() < 20  # blocks
    assert "500 for validation" in notes[0]
    assert split_items(items[::-1], 2, 0)[0] == split_of
