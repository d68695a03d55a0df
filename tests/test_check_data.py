"""The doctor names every kind of damage, and finds pictures that are in two splits."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from sceneparse.cli import check as check_command
from sceneparse.cli.command import run
from sceneparse.data.checks.duplicates import fingerprint_of, nearest_duplicates, similar_groups
from sceneparse.data.datasets import DATASETS, create_dataset
from sceneparse.data.labels import load_label_table, require_own_classes
from sceneparse.data.sample_checks import check_samples
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError
from tests.test_train_seg import call


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    write_dataset(root, {"train": 16, "val": 4}, size=(64, 96))
    return root


def check(root: Path, *arguments: str) -> int:
    output = str(root / "report")
    with pytest.raises(SystemExit) as stop:
        run(
            check_command.parser(),
            check_command.main,
            [str(root), "--output", output, *arguments],
        )
    return int(stop.value.code or 0)


def save_mask(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# What is done to the image and mask of a sample, and what the doctor says of it.
DAMAGE: list[tuple[Callable[[Path, Path], object], str]] = [
    (lambda i, m: i.write_bytes(i.read_bytes()[:-200]), "truncated"),
    (lambda i, m: i.write_bytes(b""), "not an image file"),
    (lambda i, m: i.write_text("<html>404</html>"), "not an image file"),
    (lambda i, m: i.unlink(), "this image is missing"),
    (lambda i, m: m.unlink(), "this mask is missing"),
    (lambda i, m: m.write_bytes(m.read_bytes()[:-20]), "truncated"),
    (lambda i, m: flip_a_bit(m), "damaged"),
    (lambda i, m: save_mask(m, lambda a: a[:-1]), "mask is 96x63 but the image"),
    (lambda i, m: save_mask(m, lambda a: a + 40), "outside the table"),
    (lambda i, m: Image.open(m).convert("RGB").save(m), "this one is RGB"),
    (lambda i, m: Image.fromarray(np.full((64, 96), -2, np.int32)).save(m, "TIFF"), "outside 0..6"),
    (lambda i, m: Image.fromarray(np.full((64, 96), 9.5, np.float32)).save(i, "TIFF"), "9.5..9.5"),
    (lambda i, m: (i.unlink(), i.mkdir()), "this image is missing"),
]


@pytest.mark.fault(7, 15, 18)
def test_every_kind_of_damage_is_named(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(pristine, root)
    images = sorted((root / "train/images").iterdir())
    masks = sorted((root / "train/labels").iterdir())
    for (damage, _), image, mask in zip(DAMAGE, images, masks, strict=False):
        damage(image, mask)
    save_mask(masks[14], lambda a: np.full_like(a, 255))
    save_mask(masks[15], lambda a: np.full_like(a, 3))
    assert check(root) == 2
    printed = capsys.readouterr()
    report = json.loads((root / "report/data.json").read_text())
    problems = {problem["name"]: problem["problem"] for problem in report["problems"]}
    assert {path.stem for path in images[: len(DAMAGE)]} == set(problems)
    for (_, expected), image in zip(DAMAGE, images, strict=False):
        assert expected in problems[image.stem], (image.stem, problems[image.stem])
        assert problems[image.stem] in printed.out
    reasons = {Path(s["mask"]).stem: s["reason"] for s in report["suspicious"]}
    assert reasons == {
        masks[14].stem: "every pixel is ignored",
        masks[15].stem: "every pixel is of class 3",
    }
    assert printed.err.startswith("error: 13 problems, the first: train: ")
    page = (root / "report/data.html").read_text()
    # of the six whose image or mask is gone or unreadable the other half is shown, if it decodes
    broken = page.partition("<h2>Samples that cannot be used</h2>")[2].partition("<h2>")[0]
    assert broken.count("<img") == len(DAMAGE)
    assert page.count("<img") > broken.count("<img")
    assert "truncated" in page


def test_good_data_pass_with_exact_figures(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "good"
    shutil.copytree(pristine, root)
    assert check(root) == 0
    report = json.loads((root / "report/data.json").read_text())
    masks = np.stack([np.asarray(Image.open(p)) for p in sorted((root / "train/labels").iterdir())])
    for k, row in enumerate(report["splits"]["train"]["classes"]):
        assert row["pixels"] == (masks == k).sum()
        assert row["images"] == (masks == k).any((1, 2)).sum()
    pixels = np.concatenate(
        [
            np.asarray(Image.open(path)).reshape(-1, 3) / 255
            for path in (root / "train/images").iterdir()
        ]
    )
    assert report["mean"] == pytest.approx(pixels.mean(0), abs=2e-4)
    assert report["std"] == pytest.approx(pixels.std(0), abs=2e-4)
    assert report["failures"] == []
    assert "problems: 0" in capsys.readouterr().out


def test_folder_that_cannot_be_written_is_named_before_samples_are_read(
    pristine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(check_command, pristine, "--output", "/proc/self/report") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: cannot write '/proc/self/report': ")
    assert printed.err.endswith("; choose another place with --output\n")
    assert "usable" not in printed.out


def test_real_camvid(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        arguments = [shared / "data/camvid", "--dataset", "camvid", "--splits", "train", "val"]
        words = [str(word) for word in (*arguments, "--output", tmp_path)]
        run(check_command.parser(), check_command.main, words)
    assert not stop.value.code
    report = json.loads((tmp_path / "data.json").read_text())
    # figures of the pack's own README
    assert report["mean"] == pytest.approx([0.4119, 0.4251, 0.4327], abs=1e-3)
    assert report["std"] == pytest.approx([0.3071, 0.3116, 0.3072], abs=1e-3)
    images = [row["images"] for row in report["splits"]["train"]["classes"]]
    assert images == [366, 365, 366, 367, 349, 319, 351, 173, 360, 317, 201]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image.resize((72, 48)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    ],
    ids=["copy", "resized", "brighter"],
)
def test_pictures_in_two_splits_are_found(
    pristine: Path,
    tmp_path: Path,
    change: Callable[[Image.Image], Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "leak"
    shutil.copytree(pristine, root)
    stolen = sorted((root / "train/images").iterdir())[2]
    image = change(Image.open(stolen))
    mask = Image.open(root / "train/labels" / f"{stolen.stem}.png")
    image.save(root / "val/images/new.jpg", quality=80)
    mask.resize(image.size, Image.Resampling.NEAREST).save(root / "val/labels/new.png")
    assert check(root) == 2
    assert "1 pairs of images occur in two splits" in capsys.readouterr().err
    (twins,) = json.loads((root / "report/data.json").read_text())["twins"]
    assert (Path(twins["first"]), Path(twins["second"]).name) == (stolen, "new.jpg")
    assert check(root, "--allow-twins") == 0


def test_fingerprints_tell_pictures_apart(pristine: Path) -> None:
    images = [np.asarray(Image.open(p)) for p in sorted((pristine / "train/images").iterdir())]
    fingerprints = [fingerprint_of(image) for image in images]
    again = fingerprint_of(images[3])
    assert [(i, j) for i, j, _ in nearest_duplicates([again], fingerprints)] == [(0, 3)]
    assert similar_groups(fingerprints) == [[i] for i in range(len(images))]
    grey = fingerprint_of(np.full((40, 40, 3), 9, np.uint8))
    assert nearest_duplicates([grey], [fingerprint_of(np.full((40, 40, 3), 9, np.uint8))]) == []
    assert nearest_duplicates([], fingerprints) == nearest_duplicates(fingerprints, []) == []


@pytest.mark.fault(16)
def test_mask_of_0_and_255_is_recognised(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "binary"
    shutil.copytree(pristine, root)
    (root / "classes.txt").write_text("other\nroad\n")
    (root / "colors.txt").unlink(missing_ok=True)
    for mask in root.glob("*/labels/*"):
        save_mask(mask, lambda a: np.where(a == 2, 255, 0).astype(np.uint8))
    assert check(root) == 2
    assert "train: the masks hold only 0 and 255, and 255 means ignore" in capsys.readouterr().err


def test_unreadable_layout_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error() -> str:
        assert check(tmp_path) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    convert = f"sceneparse convert {tmp_path} NEW_FOLDER"
    line = error()
    assert "classes.txt is missing" in line
    assert convert in line
    (tmp_path / "classes.txt").write_text("floor\nrobot\n")
    (tmp_path / "images").mkdir()
    assert convert in error()
    (tmp_path / "training/images").mkdir(parents=True)
    assert "there are training; expected train/images" in error()


def small_set(root: Path, train: int = 6, classes: str = "floor\nrobot\n") -> Path:
    """Write different pictures with masks of 0 and 1, and two for validation."""
    random = np.random.default_rng(7)
    for split, count in (("train", train), ("val", 2)):
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for number in range(count):
            blocks = random.integers(0, 255, (6, 8, 3)).astype(np.uint8)
            picture = Image.fromarray(blocks).resize((48, 36), Image.Resampling.NEAREST)
            picture.save(root / split / f"images/{number}.png")
            mask = random.integers(0, 2, (36, 48)).astype(np.uint8)
            Image.fromarray(mask).save(root / split / f"labels/{number}.png")
    (root / "classes.txt").write_text(classes)
    return root


@pytest.mark.parametrize("dataset", sorted(set(DATASETS) - {"folder"}))
def test_own_classes_are_not_read_by_a_public_table(tmp_path: Path, dataset: str) -> None:
    root = small_set(tmp_path / "mine")
    with pytest.raises(InputError, match=r"classes.txt names 2 .*floor, robot.* data.dataset=fold"):
        create_dataset(dataset, root, "train", complete=False)
    table = load_label_table(dataset)
    for names in (table.names, [name.upper().replace(" ", "_") for name in table.names]):
        (root / "classes.txt").write_text("\n".join(names))
        require_own_classes(root, dataset, table)
    (root / "classes.txt").write_text("\n".join(table.names[::-1]))
    with pytest.raises(InputError, match=r"classes\.txt names"):
        require_own_classes(root, dataset, table)


def test_label_values_of_own_classes_are_not_taken_for_a_public_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_set(tmp_path / "mine")
    (root / "classes.txt").unlink()
    assert check(root, "--dataset", "camvid") == 2
    expected = "6 masks hold only the first 2 of the 11 classes of 'camvid' (Sky, Building)"
    assert expected in capsys.readouterr().err
    dataset = create_dataset("camvid", root, "train")
    with pytest.raises(InputError, match="if these are classes of your own"):
        check_samples(dataset, range(6), "camvid")
    save_mask(root / "train/labels/3.png", lambda mask: mask * 8)  # Sky and Car: not the first ones
    assert check_samples(dataset, range(6), "camvid") == {0, 1, 8}


def test_classes_without_a_training_pixel_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_set(tmp_path / "mine", classes="floor\nrobot\nperson\ncart\n")
    save_mask(root / "val/labels/0.png", lambda mask: mask * 2)
    assert check(root) == 2
    line = capsys.readouterr().err
    assert "no pixel of 2 of 4 classes in the training split 'train': person, cart." in line
    assert "remove their lines from classes.txt" in line
    assert "('val' shows person)" in line
    assert check(root, "--splits", "val") == 0  # held-out images alone need not show all
    (root / "classes.txt").write_text("floor\nrobot\nVoid\n")
    assert check(root) == 0


def notes_of(root: Path) -> str:
    report = json.loads((root / "report/data.json").read_text())
    page = (root / "report/data.html").read_text()
    for note in report["notes"]:
        assert note["remedy"]
        assert note["note"].partition("'")[0] in html.unescape(page)
    return "\n".join(f"{note['note']} > {note['remedy']}" for note in report["notes"])


def test_files_that_surprise_are_noted_with_a_remedy(tmp_path: Path) -> None:
    root = small_set(tmp_path / "mine")
    images, masks = (sorted((root / "train" / kind).iterdir()) for kind in ("images", "labels"))
    assert check(root) == 0
    assert notes_of(root) == ""
    with Image.open(images[0]) as picture:
        alpha = picture.convert("RGBA")
        alpha.putpixel((3, 3), (9, 9, 9, 0))
        alpha.save(images[0])
    for path, orientation in ((images[1], 3), (images[3], 0)):  # upside down; unknown
        with Image.open(path) as picture:
            exif = picture.getexif()
            exif[274] = orientation
            picture.save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
    for path in (images[2], masks[2]):
        path.rename(path.with_name("cafe\u0301.png"))  # as macOS stores it
    assert check(root) == 0
    text = notes_of(root)
    assert "1 images have transparent pixels" in text
    assert "1 images are stored sideways or upside down" in text
    assert "1 images have names with letters and accents stored apart (NFD" in text


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_pictures_of_few_bits_in_sixteen_are_noted(tmp_path: Path, bits: int) -> None:
    root = small_set(tmp_path / "mine")
    random = np.random.default_rng(0)
    for path in (root / "train/images").iterdir():
        values = random.integers(0, 2**bits, (36, 48)).astype(np.uint16)
        values[0, 0] = 2**bits - 1
        Image.fromarray(values).save(path)
    assert check(root) in {0, 2}
    text = notes_of(root)
    assert (f"use only {bits}" in text) is (bits < 16)
    assert (f"data.bit_depth={bits}" in text) is (bits < 16)


def test_names_and_files_that_reading_sorted_out_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_set(tmp_path / "mine")
    for split in ("train", "val"):
        for part, ending in (("images", "_image"), ("labels", "_mask")):
            (root / split / part / "site").mkdir()
            for path in (root / split / part).glob("*.png"):
                path.rename(path.parent / "site" / f"{path.stem}{ending}.png")
    (root / "train/images/notes.txt").write_text("x")
    assert check(root) == 0
    text = notes_of(root)
    assert "names of images and masks differ" in text
    assert "1 .txt" in text
    assert "8 images lie in sub-folders" in text
    assert "What to do: " in capsys.readouterr().out
    masks = sorted((root / "train/labels/site").iterdir())
    save_mask(masks[0], lambda mask: np.where(mask == 1, 255, 0).astype(np.uint8))
    save_mask(masks[1], lambda mask: np.stack([mask * 200, mask, mask], -1))
    save_mask(masks[2], lambda mask: np.stack([mask, mask, mask], -1))
    assert check(root) == 2
    printed = capsys.readouterr().out
    assert "if ignored ones are class 1, store them as 1" in printed
    assert "it has 2 colours: sceneparse convert DATA NEW --classes colors.csv" in printed
    assert "its channels are equal, so save one of them as 8-bit grey" in printed


def test_a_fixed_camera_is_told_from_a_few_repeated_pictures(tmp_path: Path) -> None:
    root = small_set(tmp_path / "mine", train=10)
    folder = root / "train/images"
    for number in (1, 2):
        shutil.copy(folder / "0.png", folder / f"{number}.png")
    assert check(root) == 0
    assert "train: 3 of 10 images look like another one of the split" in notes_of(root)
    for number in range(1, 9):
        with Image.open(folder / "0.png") as picture:
            picture.paste((0, 0, 0), (4 * number, 8, 4 * number + 4, 12))
            picture.save(folder / f"{number}.png")
    assert check(root) == 0
    assert "train: 9 of 10 images look alike: a fixed camera" in notes_of(root)


def test_the_cause_of_a_bad_mask_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_set(tmp_path / "mine")
    images, masks = (sorted((root / "train" / kind).iterdir()) for kind in ("images", "labels"))
    with Image.open(images[0]) as picture:
        exif = picture.getexif()
        exif[274] = 6
        picture.save(images[0].with_suffix(".jpg"), exif=exif)
        images[0].unlink()
    disc = Image.new("L", (160, 120))
    ImageDraw.Draw(disc).ellipse((30, 20, 130, 100), fill=255)
    disc.save(masks[1], "JPEG", quality=60)
    disc.resize((40, 30)).resize((160, 120), Image.Resampling.BICUBIC).save(masks[2])
    for image in images[1:3]:
        disc.convert("RGB").save(image)
    assert check(root) == 2
    printed = capsys.readouterr().out
    assert "stored sideways (EXIF orientation 6) and this mask fits the stored pixels" in printed
    assert printed.count("look like smoothed edges or JPEG noise") == 2
    assert "1 images have masks that are JPEG files" in notes_of(root)
