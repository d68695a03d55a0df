"""Predictions of all kinds of input, as files and in Python."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO, StringIO
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
from conftest import MakeRun
from PIL import Image, ImageCms
from scipy.ndimage import distance_transform_cdt
from test_inference import EveryPixel, model_of
from test_train_seg import CITYSCAPES_LABEL_IDS, call, write_cityscapes

import sceneparse
from sceneparse import Predictor
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import predict as predict_command
from sceneparse.data.labels import identity_table, palette
from sceneparse.errors import InputError
from sceneparse.inference import predictor as predictor_module
from sceneparse.inference import protocols
from sceneparse.inference.inputs import equal_size_batches, find_sources
from sceneparse.inference.predictor import Prediction
from sceneparse.inference.protocols import create_protocol
from sceneparse.inference.video import VideoReader, VideoWriter
from sceneparse.models import create_segmentation_model


@pytest.fixture
def photos(scenes: Path, tmp_path: Path) -> Path:
    """Pictures of two sizes, in a folder with a folder inside."""
    root = tmp_path / "photos"
    (root / "inner").mkdir(parents=True)
    images = sorted((scenes / "val/images").iterdir())
    for image, name in zip(images, ("a.jpg", "b.jpg", "inner/a.jpg"), strict=False):
        shutil.copy(image, root / name)
    Image.open(images[3]).resize((70, 40)).save(root / "c.png")
    (root / "notes.txt").write_text("no picture")
    return root


def predict_to(tmp_path: Path, run: Path, *arguments: object) -> tuple[int, Path]:
    output = tmp_path / "out"
    return call(predict_command, run, "--output", output, "--amp", "off", *arguments), output


def test_folder_becomes_files_of_every_kind(
    make_run: MakeRun, photos: Path, tmp_path: Path
) -> None:
    run = make_run()
    code, output = predict_to(tmp_path, run, photos, "--save", *predict_command.KINDS)
    assert code == 0
    shares = json.loads((output / "shares.json").read_text())
    assert set(shares) == {"a", "b", "inner/a", "c"}
    predictor = Predictor(run, amp="off")
    for name, shown in shares.items():
        image = np.asarray(Image.open(next(photos.glob(f"{name}.*"))))
        found = predictor(image)
        index = Image.open(output / f"index/{name}.png")
        assert np.array_equal(np.asarray(index), found.labels)
        assert index.getpalette()[:3] == list(predictor.model.colors[0])
        with np.load(output / f"probabilities/{name}.npz") as stored:
            probabilities = stored["probabilities"]
        np.testing.assert_allclose(probabilities, found.probabilities, atol=1e-3)
        assert np.array_equal(found.probabilities.argmax(0), found.labels)
        assert sum(shown.values()) == pytest.approx(1)
        for class_name, share in shown.items():
            number = predictor.model.classes.index(class_name)
            assert share == pytest.approx((found.labels == number).mean())
        color = np.asarray(Image.open(output / f"color/{name}.png"))
        expected = np.array(predictor.model.colors, dtype=np.uint8)[found.labels]
        assert np.array_equal(color, expected)
        overlay = np.asarray(Image.open(output / f"overlay/{name}.png"))
        assert overlay.shape[0] > image.shape[0]  # the legend below
        blended = overlay[: image.shape[0]].astype(int)
        # a line along the border of each region has its colour, everything else is half of both
        edges = np.zeros(found.labels.shape, dtype=bool)
        for dy, dx in product((-1, 0, 1), repeat=2):
            moved = np.pad(found.labels, 1, mode="edge")[1 + dy :, 1 + dx :]
            edges |= moved[: edges.shape[0], : edges.shape[1]] != found.labels
        mixed = np.where(edges[..., None], expected, (image.astype(int) + expected) / 2)
        assert np.abs(blended - mixed).max() <= 1


def test_bad_files_are_reported_and_the_rest_done(
    make_run: MakeRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:-500])
    (photos / "d.png").write_text("<html>")
    Image.effect_noise((90, 90), 90).save(photos / "e.png")
    (photos / "e.png").write_bytes((photos / "e.png").read_bytes()[:-3000])
    code, output = predict_to(tmp_path, make_run(), photos)
    assert code == 2
    assert {p.name for p in (output / "index").rglob("*.png")} == {"a.png", "c.png"}
    error = capsys.readouterr().err
    assert "error: 3 inputs could not be predicted: " in error
    assert "e.png: damaged or truncated" in error
    assert "d.png: not an image file" in error
    assert "b.jpg: damaged or truncated" in error
    assert set(json.loads((output / "shares.json").read_text())) == {"a", "inner/a", "c"}


# The same pictures, named in every way.
WAYS: dict[str, Callable[[Path], list[object]]] = {
    "folder": lambda photos: [photos],
    "parent": lambda photos: [photos.parent],
    "link": lambda photos: [photos.parents[1] / "link"],
    "recursive glob": lambda photos: [f"{photos}/**/*"],
    "expanded by the shell": lambda photos: sorted(photos.iterdir()),
    "list": lambda photos: sorted(path for path in photos.rglob("*") if path.is_file()),
}


@pytest.mark.parametrize("below", ["", "results/today"])
@pytest.mark.parametrize("way", WAYS)
def test_own_results_are_never_predicted(
    make_run: MakeRun,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    logged: list[str],
    way: str,
    below: str,
) -> None:
    run = make_run()
    (photos / "notes.txt").unlink()
    (photos / "raw").mkdir()  # a folder of the user, named like one of results
    (photos / "a.jpg").rename(photos / "raw/own.jpg")
    shutil.copy(photos / "c.png", photos / "raw/c2.png")
    (tmp_path / "inputs").mkdir()
    photos = photos.rename(tmp_path / "inputs/photos")
    (tmp_path / "link").symlink_to(photos)
    output = photos / below
    options = ["--output", output, "--amp", "off"]
    everything = ["--save", "index", "probabilities"]
    assert call(predict_command, run, photos / "b.jpg", *options, *everything) == 0
    assert set(json.loads((output / "shares.json").read_text())) == {"b"}
    for kinds in (["index", "overlay", "color", "probabilities"], ["overlay", "color"]):
        capsys.readouterr()
        inputs = WAYS[way](photos)
        assert call(predict_command, run, *inputs, *options, "--save", *kinds) == 0
        names = json.loads((output / "shares.json").read_text())
        assert sorted(Path(name).stem for name in names) == ["a", "b", "c", "c2", "own"]
        printed = capsys.readouterr().out
        assert re.search(f"skipped +[0-9]+ results of earlier predictions in '{output}'", printed)
        said = "".join([printed.partition("\npredicted ")[0], *logged])
        assert not re.search(r"json|npz|\.sceneparse", said)


def test_results_of_older_versions_are_recognised_by_their_shares(
    make_run: MakeRun, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output", photos, "--amp", "off"]
    assert call(predict_command, make_run(), photos, *options) == 0
    (photos / ".sceneparse_results").unlink()
    capsys.readouterr()
    for given in (photos / "overlay", photos):
        code = call(predict_command, make_run("again"), given, *options)
        said = capsys.readouterr()
        if given == photos:
            assert code == 0
            assert "skipped      9 results" in said.out
        else:
            assert code == 2
            assert "the list of inputs is empty; 4 results of earlier predictions in" in said.err


def test_results_never_overwrite_inputs(
    make_run: MakeRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project/raw").mkdir(parents=True)
    image = tmp_path / "project/raw/c.png"
    shutil.copy(photos / "c.png", image)
    before = image.read_bytes()
    options = ["--output", tmp_path / "project", "--save", "raw", "index"]
    assert call(predict_command, make_run(), image.parent, *options) == 2
    assert f"would overwrite the input '{image}'; choose another" in capsys.readouterr().err
    assert image.read_bytes() == before
    for _ in range(2):
        assert call(predict_command, make_run(), image.parent, *options[:2], "--save", "index") == 0


def test_sources_by_every_way_of_naming_them(photos: Path, tmp_path: Path) -> None:
    assert [s.name for s in find_sources([str(photos)])] == ["a", "b", "c", "inner/a"]
    assert [s.name for s in find_sources([f"{photos}/*.jpg"])] == ["a", "b"]
    assert len(find_sources([f"{photos}/**/*.jpg", str(photos / "a.jpg")])) == 3
    shutil.copy(photos / "a.jpg", photos / "a.jpeg")
    names = [s.name for s in find_sources([str(photos / "a.jpg"), str(photos / "a.jpeg")])]
    assert names == ["a.jpg", "a.jpeg"]
    both = find_sources([str(photos / "a.jpg"), str(photos / "inner/a.jpg")])
    assert len({s.name for s in both}) == 2
    assert all(s.name.endswith("a.jpg") for s in both)
    with pytest.raises(InputError, match="holds no images"):
        find_sources([str(tmp_path / "*.nothing")])


def test_equal_sizes_go_together(photos: Path) -> None:
    sources = find_sources([str(photos)])
    for at_once, expected in ((8, [1, 3]), (2, [1, 1, 2])):
        batches = list(equal_size_batches(sources, lambda *_, n=at_once: n, lambda *_: None))
        assert sorted(len(batch) for batch in batches) == expected
        for batch in batches:
            assert len({image.shape for _, image in batch}) == 1


def test_list_on_standard_input(
    make_run: MakeRun, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(f"{photos}/a.jpg\n\n{photos}/c.png\n"))
    code, output = predict_to(tmp_path, make_run(), "-")
    assert code == 0
    assert {p.name for p in (output / "overlay").iterdir()} == {"a.png", "c.png"}


def test_turned_and_16_bit_images(make_run: MakeRun, photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(photos / "a.jpg")
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(np.full((30, 20), 40000, np.uint16)).save(tmp_path / "deep.png")
    predictor = Predictor(make_run())
    assert predictor(tmp_path / "turned.jpg").labels.shape == image.size
    assert predictor(str(tmp_path / "deep.png")).labels.shape == (30, 20)


def test_python_takes_files_pictures_and_arrays(
    make_run: MakeRun, photos: Path, tmp_path: Path
) -> None:
    predictor = Predictor(make_run())
    found = predictor(photos / "c.png")
    with Image.open(photos / "c.png") as picture:
        assert np.array_equal(predictor(picture).labels, found.labels)
        array = np.asarray(picture)
    assert np.array_equal(predictor(array).labels, found.labels)
    found.save(tmp_path / "new" / "overlay.png")
    assert Image.open(tmp_path / "new" / "overlay.png").width == 70
    Image.fromarray(np.full((30, 20), 40000, np.uint16)).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    for name in ("deep.png", "turned.png"):
        with Image.open(tmp_path / name) as picture:
            expected = predictor(tmp_path / name)
            assert np.array_equal(predictor(picture).image, expected.image)
    with pytest.raises(InputError, match="equal size"):
        predictor.batch([array, array[:-1]])


RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
GREY, ALPHA = RGB[..., 0], RNG.integers(0, 256, (40, 56, 1), dtype=np.uint8)
THREE = GREY[..., None].repeat(3, axis=2)
# What the network must see of each image.
ALIKE: list[tuple[Any, np.ndarray[Any, Any]]] = [
    (GREY, THREE),
    (GREY[..., None], THREE),
    (np.dstack([RGB, ALPHA]), RGB),
    (RGB[..., ::-1], RGB[..., ::-1]),
    (RGB[:, ::2], RGB[:, ::2]),
    (RGB / 255, RGB),
    ((RGB / 255).astype(np.float16), RGB),
    ((GREY / 255).astype(np.float32), THREE),
    (RGB.astype(np.uint16) * 257, RGB),
    (RGB.astype(">u2") * 257, RGB),
    (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
    (torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB),
    ((torch.from_numpy(RGB).permute(2, 0, 1) / 255).bfloat16().requires_grad_(), None),
    (torch.from_numpy(GREY)[None], THREE),
    (torch.from_numpy(np.dstack([RGB, ALPHA])).permute(2, 0, 1), RGB),
]


def test_arrays_and_tensors_of_every_kind_are_the_same_picture() -> None:
    predictor = pointwise_predictor()
    for given, expected in ALIKE:
        found = predictor(given)
        if expected is not None:
            assert np.array_equal(found.image, expected)
        assert np.array_equal(found.labels, found.image.argmax(axis=2))
    together = predictor([given for given, _ in ALIKE])
    assert [p.image.shape for p in together] == [predictor(given).image.shape for given, _ in ALIKE]
    assert predictor([]) == []


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"),
        *("LAB", "I", "I;16", "F"),
    ],
)
def test_pillow_images_of_every_mode(mode: str) -> None:
    predictor, image = pointwise_predictor(), Image.fromarray(RGB)
    if mode in {"I", "I;16"}:
        made = Image.fromarray(GREY.astype(np.uint16) * 257).convert(mode)
        expected = THREE
    elif mode == "F":
        made, expected = Image.fromarray((GREY / 255).astype(np.float32)), THREE
    elif mode in {"La", "RGBa"}:
        full = "LA" if mode == "La" else "RGBA"
        made = image.convert(full).convert(mode)
        expected = np.asarray(image.convert(full).convert("RGB"))
    elif mode == "LAB":
        rgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        transform = ImageCms.buildTransform(rgb, lab, "RGB", "LAB")
        made = ImageCms.applyTransform(image, transform)
        assert made is not None
        expected = np.asarray(made.convert("RGB"))
    else:
        made = image.convert(mode)
        expected = np.asarray(made.convert("RGB"))
    assert made.mode == mode
    assert np.array_equal(predictor(made).image, expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (RGB.astype(np.float32), r"floats must be in 0\.\.1, got 0\.\.255; divide"),
        (RGB / 255 - 0.5, r"must be in 0\.\.1, got -0\.5\.\.0\.5; "),
        (np.full((4, 4), np.nan), r"must be in 0\.\.1, got nan"),
        (RGB.astype(np.int64), r"uint8, uint16 or floats in 0\.\.1, got int64"),
        (GREY > 5, "got bool"),
        (RGB[..., :2], r"1, 3 or 4 channels, got \(40, 56, 2\)$"),
        (RGB[:0], "1, 3 or 4 channels"),
        (RGB.transpose(2, 0, 1), r"got \(3, 40, 56\); move the channels to the last axis"),
        (torch.from_numpy(RGB), r"got \(40, 56, 3\); move the channels to the first axis"),
        (RGB[None], "must hold one image.*pass a list"),
        (None, "a Pillow image, an array or a tensor, got NoneType"),
        (b"content", "got bytes"),
        ("nowhere.jpg", "nowhere.jpg"),
        ([RGB, "nowhere.jpg"], "nowhere.jpg"),
    ],
    ids=str,
)
def test_what_is_no_image_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pointwise_predictor()(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["background", "_background_", "BG", "void", "Clutter/background"])
def test_background_stays_as_it_is_in_overlays(name: str) -> None:
    image, labels = np.full((300, 40, 3), 90, np.uint8), np.zeros((300, 40), np.uint8)
    labels[100:270, 10:30], labels[280:] = 1, 255
    table = identity_table([name, "road"], palette([name, "road"]))
    picture = Prediction(image, labels, table).overlay(0.5)
    road = labels == 1
    assert np.array_equal(picture[:300][~road], image[~road])
    assert (picture[:300][road] != 90).any(axis=1).all()
    assert picture.shape[0] > 300  # the legend names both
    red, green, blue = table.colors[1]
    assert picture[100, 15].tolist() == [red, green, blue]  # the outline
    assert np.array_equal(Prediction(image, labels, table).overlay(0.0, legend="none"), image)
    # a class of such a name beside none other is painted
    both = identity_table(["void", "other"], palette(["void", "other"]))
    assert not np.array_equal(Prediction(image, labels, both).overlay(legend="none"), image)


def test_outlines_are_the_same_in_every_band() -> None:
    labels = RNG.integers(0, 3, (70, 90)).repeat(10, axis=0).repeat(20, axis=1).astype(np.uint8)
    image = np.zeros((*labels.shape, 3), np.uint8)
    table = identity_table(["a", "b", "c"], palette(["a", "b", "c"]))
    shown = Prediction(image, labels, table).overlay(legend="none").astype(int)
    # lines of 3 pixels at 1800: by the distance to the next pixel of another class
    colors = np.array(table.colors)[labels]
    near = np.zeros(labels.shape, dtype=bool)
    for number in range(3):
        apart = distance_transform_cdt(labels == number, metric="chessboard")
        near |= (labels == number) & (apart <= 3)
    assert np.abs(shown - np.where(near[..., None], colors, colors / 2)).max() <= 1


def test_names_in_legends_are_shortened_to_fit() -> None:
    names = ["a" * 60, "road"]
    table = identity_table(names, palette(names))
    labels = np.repeat(np.arange(2, dtype=np.uint8), 60)[None].repeat(20, axis=0)
    picture = Prediction(np.zeros((20, 120, 3), np.uint8), labels, table).overlay()
    assert (picture[20:, -4:] == 255).all()


def test_predictions_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:30, ..., 0], image[30:, :15, 1], image[30:, 15:, 2] = 200, 200, 200
    predictor = pointwise_predictor()
    found = predictor(image)
    assert repr(predictor).startswith("Predictor(3 classes: red, green, blue; whole: ")
    assert repr(found) == "Prediction(60x40: red 75.0%, blue 18.8%, green 6.2%)"
    png = found._repr_png_()
    assert np.array_equal(np.asarray(Image.open(BytesIO(png))), found.overlay())
    monkeypatch.setattr(predictor_module, "_NOTEBOOK_SIDE", 30)
    assert max(Image.open(BytesIO(found._repr_png_())).size) == 30
    many = identity_table([f"class {k}" for k in range(6)], [(k, k, k) for k in range(6)])
    labels = np.repeat(np.arange(6, dtype=np.uint8), 10)[None]
    line = repr(Prediction(np.zeros((1, 60, 3), np.uint8), labels, many))
    assert line.endswith("16.7% and 2 more)")
    assert "\n" not in line


def test_notebooks_show_classes_and_shares() -> None:
    names = ["<b>road</b> & more", "background", *(f"class {k}" for k in range(30))]
    table = identity_table(names, palette(names))
    labels = np.zeros((1000, 3000), np.uint8)
    labels[:250], labels[250:300], labels[-3:] = 1, 255, 2 + np.arange(3000) // 100 % 30
    found = Prediction(np.full((1000, 3000, 3), 90, np.uint8), labels, table)
    page = found._repr_html_()
    shown = ElementTree.fromstring(page.replace('auto">', 'auto"/>'))
    texts = [text.strip() for text in shown.itertext() if text.strip()]
    assert texts[:3] == ["<b>road</b> & more 69.7%", "background 25.0%", "no class 5.0%"]
    assert texts[-2:] == ["and 9 more", "3000x1000 pixels"]
    assert len(texts) == 24 + 2
    colors = re.findall(r"background:([^\"]*)", page)
    assert colors[0] == "rgb({},{},{})".format(*table.colors[0])
    assert colors[1].startswith("repeating-linear-gradient")  # overlays do not paint it
    picture = Image.open(BytesIO(b64decode(re.findall('base64,([^"]*)', page)[0])))
    assert picture.size == (800, 267)
    few = Prediction(found.image[:300], labels[:300], table)._repr_html_()
    assert "no class 16.7%" in few
    assert len(few) < 20_000


def test_a_folder_becomes_in_python_what_the_command_writes(
    make_run: MakeRun, photos: Path, tmp_path: Path
) -> None:
    run, kinds = make_run(), predict_command.KINDS
    (photos / "d.png").write_text("<html>")
    code, output = predict_to(tmp_path, run, photos, "--save", *kinds)
    assert code == 2
    predictor = Predictor(run, amp="off")
    found = predictor.predict_folder(photos, tmp_path / "again", save=kinds)
    written = [
        {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        for place in (output, tmp_path / "again")
    ]
    assert written[0] == written[1]
    assert found.shares == json.loads((output / "shares.json").read_text())
    assert (found.inputs, len(found.failures), found.abstained) == (5, 1, None)
    assert repr(found).startswith(f"Predicted(4 of 5 inputs; not predicted: {photos / 'd.png'}: ")
    for earlier in (False, True):
        found = predictor.predict_folder(str(photos), photos, save=["color"])
        assert found.inputs == 5
        assert ("results of earlier predictions" in repr(found)) == earlier


def test_a_tilde_stands_for_the_home_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, predictor = photos.parent, pointwise_predictor()
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(home))
    found = predictor.predict_folder(f"~/{photos.name}", "~/found", save=["index"])
    assert found.output == home / "found"
    assert (home / "found" / "index" / "c.png").is_file()
    predictor(f"~/{photos.name}/c.png").save("~/overlay.png")
    assert (home / "overlay.png").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"save": ["colour"]}, "unknown kind to save 'colour'; choose one of: color, index"),
        ({"save": "index"}, "save must be a list of kinds"),
        ({"save": []}, "save must be a list of kinds"),
        ({"opacity": 2}, r"opacity must be in 0\.\.1, got 2"),
        ({"folder": "nowhere"}, "'nowhere' is no folder; give one that holds images"),
        ({"folder": "."}, "holds no images"),
    ],
)
def test_wrong_folders_and_kinds_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"folder": ".", "output": tmp_path / "out", **settings}
    with pytest.raises(InputError, match=message):
        pointwise_predictor().predict_folder(**given)
    assert not (tmp_path / "out").exists()


def test_folder_of_save_pretrained_predicts_as_its_run(
    make_run: MakeRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    expected = Predictor(run)(photos / "a.jpg")
    sceneparse.load_model(run).save_pretrained(tmp_path / "saved")  # type: ignore[union-attr]
    found = Predictor(tmp_path / "saved")(photos / "a.jpg")
    assert np.array_equal(found.labels, expected.labels)
    assert call(predict_command, tmp_path / "saved", photos, "--output", tmp_path / "out") == 0
    assert call(evaluate_command, tmp_path / "saved", "--workers", 0) == 0
    assert (tmp_path / "saved/eval_val/eval.json").is_file()
    model = sceneparse.load_model(run)
    del model.meta["data"]
    model.save_pretrained(tmp_path / "hub")  # type: ignore[union-attr]
    capsys.readouterr()
    assert call(evaluate_command, tmp_path / "hub", "--dataset", "folder") == 2
    assert "does not name the data it was trained on; give --data" in capsys.readouterr().err
    create_segmentation_model("fcn", "resnet18", 3, base_width=8).save_pretrained(tmp_path / "new")
    with pytest.raises(InputError, match="no classes: it is not from a training run"):
        Predictor(tmp_path / "new")


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for number in range(frames):
        writer.write(np.full((64, 96, 3), 20 * number, np.uint8))
    writer.release()


def test_video_becomes_a_video(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "drive.mp4", 7)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    inputs = [tmp_path / "drive.mp4", tmp_path / "broken.mp4"]
    code, output = predict_to(tmp_path, make_run(), *inputs, "--save", "index", "overlay")
    assert code == 2
    assert "broken.mp4: cannot be opened as a video" in capsys.readouterr().err
    frames = json.loads((output / "shares.json").read_text())["drive"]
    assert len(frames) == len(list((output / "index/drive").iterdir())) == 7
    video = cv2.VideoCapture(str(output / "overlay/drive.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert video.get(cv2.CAP_PROP_FPS) == 10
    code, output = predict_to(tmp_path, make_run("again"), inputs[0], "--frames", 3)
    assert len(json.loads((output / "shares.json").read_text())["drive"]) == 3


def test_video_that_breaks_off_is_reported(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (97, 65))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 256, (65, 97, 3), dtype=np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, output = predict_to(tmp_path, make_run(), path)
    assert code == 2
    assert "cut.avi: breaks off after" in capsys.readouterr().err
    frames = json.loads((output / "shares.json").read_text())["cut"]
    assert 5 < len(frames) < 15
    video = cv2.VideoCapture(str(output / "overlay/cut.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames)


def test_videos_of_odd_size_lose_nothing(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "odd.mp4", 10, (65, 97)) as writer:
        writer.write(np.full((65, 97, 3), (200, 100, 50), np.uint8))
    (frame,) = VideoReader(tmp_path / "odd.mp4").frames()
    assert frame.shape == (66, 98, 3)
    assert np.abs(frame[:64, :96].astype(int) - (200, 100, 50)).max() < 12


def test_names_that_are_not_text(make_run: MakeRun, photos: Path, tmp_path: Path) -> None:
    name = b"b\xff.jpg".decode(errors="surrogateescape")
    shutil.copy(photos / "a.jpg", photos / name)
    code, output = predict_to(tmp_path, make_run(), photos)
    assert code == 0
    assert len(json.loads((output / "shares.json").read_text())) == 5
    assert (output / "index" / name.replace("jpg", "png")).is_file()


def test_model_in_training_is_not_changed_by_predicting(make_run: MakeRun, photos: Path) -> None:
    predictor = Predictor(make_run())
    expected = predictor(photos / "a.jpg").labels
    predictor.model.train()
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    again = Predictor(predictor.model)
    assert np.array_equal(again(photos / "a.jpg").labels, expected)
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def pointwise_predictor() -> Predictor:
    model = model_of(EveryPixel())
    model.meta = {
        "classes": ["red", "green", "blue"],
        "colors": [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    return Predictor(model, amp="off")


def test_tiles_put_a_huge_image_together(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = pointwise_predictor()
    image = np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)
    expected = predictor(image).labels
    assert np.array_equal(expected, image.argmax(axis=2))
    monkeypatch.setattr(predictor_module, "MAX_WHOLE", 5000)
    monkeypatch.setattr(predictor_module, "TILE", 32)
    monkeypatch.setattr(predictor_module, "MARGIN", 8)
    monkeypatch.setattr(predictor_module, "_PART", 48)
    found = predictor(image)
    assert np.array_equal(found.labels, expected)
    with pytest.raises(InputError, match="million pixels"):
        _ = found.probabilities


def test_tiles_know_what_is_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = pointwise_predictor()
    shown: list[tuple[int, ...]] = []

    def look(module: Any, arguments: tuple[torch.Tensor]) -> None:
        shown.append(tuple(arguments[0].shape[2:]))

    predictor.model.backbone.register_forward_pre_hook(look)
    monkeypatch.setattr(predictor_module, "MAX_WHOLE", 5000)
    monkeypatch.setattr(predictor_module, "TILE", 40)
    monkeypatch.setattr(predictor_module, "MARGIN", 8)
    monkeypatch.setattr(predictor_module, "_PART", 56)
    predictor(np.zeros((80, 120, 3), np.uint8))
    # a margin on both sides, also for tiles at the border
    assert set(shown) == {(56, 56)}


def test_cityscapes_files_are_as_its_server_wants_them(make_run: MakeRun, tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "cityscapes")
    run = make_run(dataset="cityscapes", root=tmp_path / "cityscapes")
    folder = tmp_path / "cityscapes/leftImg8bit/val"
    code, output = predict_to(tmp_path, run, folder, "--save", "raw", "index")
    assert code == 0
    names = sorted(path.name for path in (output / "raw/lindau").iterdir())
    # the server finds files by city_sequence_frame*
    assert names == ["lindau_000000_000019.png", "lindau_000001_000019.png"]
    index = np.asarray(Image.open(output / "index/lindau/lindau_000000_000019_leftImg8bit.png"))
    raw = np.asarray(Image.open(output / "raw/lindau/lindau_000000_000019.png"))
    assert np.array_equal(raw, np.array(CITYSCAPES_LABEL_IDS)[index])


def test_tiles_are_scaled_as_the_whole_image_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = pointwise_predictor()
    predictor.protocol = create_protocol("spnet", crop=(8, 8), base=60, scales=[0.5, 1.0])
    shown: list[tuple[int, ...]] = []
    rescale = protocols.rescale_images

    def look(images: torch.Tensor, sizes: list[tuple[int, int]], *settings: Any) -> Any:
        shown.extend((*images.shape[2:], *size) for size in sizes)
        return rescale(images, sizes, *settings)

    monkeypatch.setattr(protocols, "rescale_images", look)
    monkeypatch.setattr(predictor_module, "MAX_WHOLE", 5000)
    monkeypatch.setattr(predictor_module, "TILE", 40)
    monkeypatch.setattr(predictor_module, "MARGIN", 8)
    monkeypatch.setattr(predictor_module, "_PART", 56)
    found = predictor(np.zeros((80, 120, 3), np.uint8))
    assert found.tiled
    # the whole image would be scaled from 120 pixels to 30 and 60
    factors = {(new / old) for *old_size, _, new in shown for old in old_size[1:]}
    assert factors == {0.25, 0.5}


def test_a_photo_that_is_resized_as_in_training_needs_no_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = pointwise_predictor()
    predictor.protocol = create_protocol("whole", resize={"long": 30})
    monkeypatch.setattr(predictor_module, "MAX_WHOLE", 5000)
    found = predictor(np.zeros((80, 120, 3), np.uint8))
    assert not found.tiled
    assert found.labels.shape == (80, 120)
    predictor.protocol = create_protocol("whole", resize={"long": 100})
    assert predictor(np.zeros((80, 120, 3), np.uint8)).tiled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg"),
        (["nothing/*.jpg"], "holds no images"),
        (["camera:front"], "give a camera by its number"),
        (["camera:7"], "camera 7: cannot be opened"),
        (["a.jpg", "--opacity", "2"], "--opacity: must be in 0..1"),
        (["a.jpg", "--frames", "0"], "--frames: must be 1 or more"),
        (["a.jpg", "--protocol", "best"], "unknown protocol 'best'"),
        (["a.jpg", "--amp", "int1"], "unknown precision 'int1'"),
        (["a.jpg", "--device", "tpu"], "unknown device 'tpu'; use cpu, cuda"),
        (["a.jpg", "--device", "cuda:99"], "there is no GPU 'cuda:99'"),
        (["a.jpg", "--crop", "9", "9"], "protocol whole has no windows, so --crop has no effect"),
        (["a.jpg", "--output", "a.jpg/out"], "cannot write 'a.jpg/out'"),
        (["a.jpg", "--output", "a.jpg/out"], "; choose another place with --output"),
        (["a.jpg", "--protocol", "slide", "--crop", "1", "1"], "--crop 1x1 is too small: the netw"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    make_run: MakeRun,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = make_run()
    monkeypatch.chdir(photos)
    assert call(predict_command, run, *arguments) == 2
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line


def test_results_stay_in_their_folder(make_run: MakeRun, photos: Path, tmp_path: Path) -> None:
    """Images of equal names get longer paths, which must not leave the output folder."""
    (tmp_path / "other").mkdir()
    shutil.copy(photos / "a.jpg", tmp_path / "other/a.jpg")
    inputs = [photos / "a.jpg", f"{photos}/../../../../../../../{tmp_path}/other/a.jpg"]
    code, output = predict_to(tmp_path, make_run(), *inputs, "--save", "index")
    assert code == 0
    names = json.loads((output / "shares.json").read_text())
    assert len(names) == 2
    assert all((output / "index" / f"{name}.png").is_file() for name in names)
    assert not any(".." in Path(name).parts for name in names)


VIDEOS = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nreal.avi\n#EXT-X-ENDLIST\n",
    "list": "ffconcat version 1.0\nfile real.avi\n",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "text": "x",
    "nothing": "",
}


@pytest.mark.parametrize("name", VIDEOS)
def test_lists_of_other_files_are_no_videos(name: str, tmp_path: Path) -> None:
    """FFmpeg would follow them to other files and over the network."""
    with VideoWriter(tmp_path / "real.mp4", 10, (64, 64)) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    shutil.copy(tmp_path / "real.mp4", tmp_path / "real.avi")
    (tmp_path / "x.mp4").write_text(VIDEOS[name])
    with pytest.raises(InputError, match=r"x\.mp4: cannot be opened as a video"):
        VideoReader(tmp_path / "x.mp4")


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.mp4", "concat:a.mp4|b.mp4", "x" * 300])
def test_addresses_are_no_videos(path: str) -> None:
    with pytest.raises(InputError, match=r"no file|cannot be read"):
        VideoReader(Path(path))


def test_large_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoWriter(tmp_path / "x.mp4", 10, (64, 64)) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr("sceneparse.inference.video.MAX_IMAGE_PIXELS", 64 * 63)
    with pytest.raises(InputError, match="frames of 64x64 are over"):
        VideoReader(tmp_path / "x.mp4")
