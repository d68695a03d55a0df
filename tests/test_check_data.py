"""The doctor names every kind of damage, and finds pictures that are in two splits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sceneparse.cli import check as check_command
from sceneparse.cli.command import run
from sceneparse.data.checks.duplicates import duplicate_pairs, fingerprint_of
from sceneparse.data.synthetic import write_dataset


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
    assert [(i, j) for i, j, _ in duplicate_pairs([again], fingerprints)] == [(0, 3)]
    assert duplicate_pairs(fingerprints, fingerprints) == []
    grey = fingerprint_of(np.full((40, 40, 3), 9, np.uint8))
    assert duplicate_pairs([grey], [fingerprint_of(np.full((40, 40, 3), 9, np.uint8))]) == []


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
    assert check(tmp_path) == 2
    assert "classes.txt" in capsys.readouterr().err
