"""`sceneparse train` and `sceneparse evaluate` from end to end on small scenes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sceneparse import Predictor
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import predict as predict_command
from sceneparse.cli import train as train_command
from sceneparse.cli.command import run
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import identity_table
from sceneparse.data.pairing import Pair
from sceneparse.data.resizing import Resize
from sceneparse.data.synthetic import write_dataset
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.training.data_check import check_crop
from tests.conftest import ROOT, RunCommand

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def call(tool: Any, *arguments: object) -> int:
    """Run a tool in this process and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        run(tool.parser(), tool.main, [str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def folder_of(overrides: list[str]) -> Path:
    return Path(next(o.partition("=")[2] for o in overrides if o.startswith("output=")))


def test_train_and_evaluate(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tiny)
    assert call(train_command, "--config", QUICKSTART, *tiny, "model.aux=true") == 0
    for name in ("config.yaml", "metrics.jsonl", "last", "best"):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").glob("events.*"))
    assert Image.open(folder / "pictures" / "epoch-0002.png").size[0] > 400
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [3, 6]
    rates = [record["lr"] for record in records if record["kind"] == "train"]
    # what the third and the last of six steps used
    assert rates == pytest.approx([0.05 * (1 - 2 / 6) ** 0.9, 0.05 * (1 - 5 / 6) ** 0.9])
    final = next(record for record in records if record["kind"] == "val" and record["epoch"] == 2)

    capsys.readouterr()
    assert call(evaluate_command, folder / "last", "--save", "index", "color", "overlay") == 0
    printed = capsys.readouterr().out
    output = folder / "eval_val_last"
    result = json.loads((output / "eval.json").read_text())
    for part in ("mean IoU", "pixel accuracy", "frequency-weighted", result["protocol"]):
        assert part in printed
    assert result["absent_class_rule"] in printed
    # validation while training and the tool are the same evaluation
    assert result["mean_iou"] == final["mean_iou"]
    assert [row["name"] for row in result["classes"]] == [row["name"] for row in final["classes"]]
    names = sorted(path.name for path in (output / "index").iterdir())
    assert names == sorted(path.name for path in (output / "overlay").iterdir())
    assert len(names) == 5

    # the index PNGs hold the very labels that were counted
    data = Path(next(o.partition("=")[2] for o in tiny if o.startswith("data.root=")))
    counts = np.zeros((9, 9), dtype=np.int64)
    for name in names:
        truth = np.asarray(Image.open(data / "val" / "labels" / name))
        labels = np.asarray(Image.open(output / "index" / name))
        np.add.at(counts, (truth.ravel(), labels.ravel()), 1)
    written = (output / "confusion.csv").read_text().splitlines()[1:]
    assert [list(map(int, line.split(",")[1:])) for line in written] == counts.tolist()


def test_photos_of_12_bits_train_and_score_as_their_8_bits_do(
    tiny: list[str], scenes: Path, tmp_path: Path
) -> None:
    """255 steps of 8 bits survive in 4095 of 12: the same run, evaluation and prediction."""
    for bits in (8, 12):
        root = tmp_path / f"data{bits}"
        shutil.copytree(scenes, root)
        for path in root.glob("*/images/*"):
            rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.uint16)
            path.unlink()
            deep = (rgb * 4095 / 255).round().astype(np.uint16)
            pixels = rgb.astype(np.uint8) if bits == 8 else deep
            cv2.imwrite(str(path.with_suffix(".png")), pixels[..., ::-1])
        settings = [*tiny, f"data.root={root}", f"output={tmp_path / str(bits)}", "train.epochs=1"]
        depth = [] if bits == 8 else ["data.bit_depth=12"]
        assert call(train_command, "--config", QUICKSTART, *settings, *depth) == 0
        assert call(evaluate_command, tmp_path / str(bits)) == 0
        images = root / "val/images"
        output = tmp_path / f"predicted{bits}"
        run = tmp_path / str(bits)
        assert call(predict_command, run, images, "--output", output, "--save", "index") == 0
    confusions = [(tmp_path / bits / "eval_val/confusion.csv").read_text() for bits in ("8", "12")]
    assert confusions[0] == confusions[1]
    for path in (tmp_path / "predicted8/index").iterdir():
        assert path.read_bytes() == (tmp_path / "predicted12/index" / path.name).read_bytes()
        deep = Predictor(tmp_path / "12")(tmp_path / "data12/val/images" / path.name)
        assert np.array_equal(deep.labels, np.asarray(Image.open(path)))


def test_two_processes_train_and_score_as_one_does(
    tiny: list[str], run_command: RunCommand
) -> None:
    folder = folder_of(tiny)
    trained = run_command("train", "--config", QUICKSTART, *tiny, "train.epochs=1", processes=2)
    assert trained.returncode == 0, trained.stderr
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (validated,) = [record for record in records if record["kind"] == "val"]
    assert call(evaluate_command, folder / "last") == 0
    result = json.loads((folder / "eval_val_last" / "eval.json").read_text())
    assert result["mean_iou"] == pytest.approx(validated["mean_iou"])
    assert sum(row["pixels"] for row in result["classes"]) == 5 * 64 * 96


def write_cityscapes(root: Path) -> None:
    """Two images a split in the official layout, with raw ids that the table maps and ignores."""
    random = np.random.default_rng(0)
    for split, city in (("train", "aachen"), ("val", "lindau")):
        images, masks = (root / kind / split / city for kind in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for number in range(2):
            name = f"{city}_{number:06d}_000019"
            image = random.integers(0, 256, (64, 128, 3), dtype=np.uint8)
            Image.fromarray(image).save(images / f"{name}_leftImg8bit.png")
            mask = random.choice([0, 1, 7, 8, 11, 21, 23, 26, 33, 255], (8, 16)).astype(np.uint8)
            mask = mask.repeat(8, axis=0).repeat(8, axis=1)
            Image.fromarray(mask).save(masks / f"{name}_gtFine_labelIds.png")


@pytest.mark.parametrize("dataset", ["cityscapes", "ade20k"])
def test_official_layouts_train_and_evaluate(
    dataset: str, tiny: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "cityscapes"
    num_classes = 19
    if dataset == "cityscapes":
        write_cityscapes(root)
    else:
        root, num_classes = request.getfixturevalue("shared") / "data" / "ade20k", 150
    settings = [*tiny, f"data.dataset={dataset}", f"data.root={root}", "train.epochs=1"]
    assert call(train_command, "--config", QUICKSTART, *settings, "train.batch_size=2") == 0
    options = ["--protocol", "slide", "--crop", 64, 96, "--save", "index", "raw"]
    assert call(evaluate_command, folder_of(tiny), *options) == 0
    output = folder_of(tiny) / "eval_val_slide_64x96"
    result = json.loads((output / "eval.json").read_text())
    assert len(result["classes"]) == num_classes
    assert "sliding window 64x96" in result["protocol"]
    assert sum(row["pixels"] for row in result["classes"]) > 0
    # what the submission servers take: labelIds, and 1..150
    raw_ids = np.arange(1, 151) if dataset == "ade20k" else np.array(CITYSCAPES_LABEL_IDS)
    for path in (output / "index").iterdir():
        submitted = np.asarray(Image.open(path.parents[1] / "raw" / path.name))
        assert np.array_equal(submitted, raw_ids[np.asarray(Image.open(path))])


# https://github.com/mcordts/cityscapesScripts, labels.py: ids of train ids 0..18
CITYSCAPES_LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, *range(23, 29), 31, 32, 33]


def test_a_recipe_of_a_public_dataset_refuses_own_classes(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = next(option for option in tiny if option.startswith("data.root="))
    recipe = ROOT / "configs" / "camvid_mobilenet.yaml"
    assert call(train_command, "--config", recipe, data, f"output={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert "classes.txt names 9 classes (sky, building, road and 6 more)" in error
    assert "set data.dataset=folder" in error
    assert not (tmp_path / "run").exists()


def test_classes_that_no_mask_shows_are_logged(
    tiny: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(
        next(option for option in tiny if option.startswith("data.root=")).partition("=")[2]
    )
    shutil.copytree(root, tmp_path / "more")
    with (tmp_path / "more/classes.txt").open("a") as file:
        file.write("unicorn\n")
    for path in (tmp_path / "more/train/labels").iterdir():
        mask = np.array(Image.open(path))
        mask[mask == 0] = 1  # the sky is in the validation split only
        Image.fromarray(mask).save(path)
    settings = [*tiny, f"data.root={tmp_path / 'more'}", "data.classes=null", "train.epochs=1"]
    (tmp_path / "more/colors.txt").unlink(missing_ok=True)
    assert call(train_command, "--config", QUICKSTART, *settings) == 0
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any(
        "no pixel of 2 of 10 classes in the training split 'train': sky, unicorn" in line
        for line in warnings
    )
    assert any("the validation split 'val' shows sky" in line for line in warnings)


def test_resized_training_is_validated_and_evaluated_at_the_images_own_size(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*tiny, "data.resize.long=48", "augment.crop=[33,49]", "train.epochs=1"]
    assert call(train_command, "--config", QUICKSTART, *settings) == 0
    folder = folder_of(tiny)
    meta = json.loads((resolve_checkpoint(folder / "last") / "meta.json").read_text())
    assert meta["data"]["resize"] == {"long": 48}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (validated,) = [record for record in records if record["kind"] == "val"]
    assert call(evaluate_command, folder / "last") == 0
    result = json.loads((folder / "eval_val_last/eval.json").read_text())
    assert "long side 48, resized as in training" in result["protocol"]
    assert result["mean_iou"] == validated["mean_iou"]
    assert sum(row["pixels"] for row in result["classes"]) == 5 * 64 * 96
    capsys.readouterr()
    assert call(evaluate_command, folder / "last", "--base", 96) == 2
    assert "contradicts data.resize (long side 48)" in capsys.readouterr().err
    assert call(train_command, "--config", QUICKSTART, *settings, "data.resize.short=9") == 2
    assert "resize takes the long or the short side" in capsys.readouterr().err
    both = [*settings, "eval.base=96", "--overwrite"]
    assert call(train_command, "--config", QUICKSTART, *both) == 2
    assert "contradicts data.resize" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("crop", "size", "expected"),
    [
        ((161, 241), (3024, 4032), r"241x161 show 0.32% of your 4032x3024 .* data.resize.long=512"),
        ((480, 480), (160, 240), r"480x480 are 83% padding on your 240x160 .*crop=\[161,241\]"),
        ((289, 385), (360, 480), None),
        ((480, 480), (512, 683), None),
        ((768, 768), (1024, 2048), None),
    ],
)
def test_crops_that_do_not_fit_the_images_are_named(
    crop: tuple[int, int],
    size: tuple[int, int],
    expected: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Image.new("RGB", size[::-1]).save(tmp_path / "a.png")
    table = identity_table(["a", "b"], [(0, 0, 0), (9, 9, 9)])
    dataset = SegmentationDataset([Pair(tmp_path / "a.png", tmp_path / "a.png", "a")], table)
    check_crop(dataset, crop, (1.0, 1.0))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == (expected is not None)
    if expected is not None:
        assert re.search(expected, found[0])
        caplog.clear()
        check_crop(dataset.resized(Resize("long", 512)), (161, 241), (1.0, 1.0))
        assert not caplog.records


def remove_a_mask(root: Path) -> None:
    next((root / "train" / "labels").iterdir()).unlink()


def put_a_label_out_of_range(root: Path) -> None:
    path = next((root / "val" / "labels").iterdir())
    mask = np.array(Image.open(path))
    mask[3, 4] = 77
    Image.fromarray(mask).save(path)


def truncate_an_image(root: Path) -> None:
    path = next((root / "train" / "images").iterdir())
    path.write_bytes(path.read_bytes()[:-400])


def remove_everything(root: Path) -> None:
    shutil.rmtree(root)


@pytest.mark.fault(7, 19, 20)
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove_a_mask, "1 images have no mask: scene_"),
        (put_a_label_out_of_range, "label values outside the table: 77 (1 px)"),
        (truncate_an_image, ".jpg: damaged or truncated"),
        (remove_everything, "does not exist; give the folder of a dataset (data.root or"),
    ],
)
def test_unusable_data_is_one_line_and_no_run_folder(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    expected: str,
) -> None:
    root = tmp_path / "data"
    write_dataset(root, {"train": 4, "val": 2}, size=(48, 64))
    damage(root)
    assert call(train_command, "--config", QUICKSTART, *tiny, f"data.root={root}") == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert said.err.count("\n") == 1
    assert not folder_of(tiny).exists()


@pytest.mark.fault(1, 6, 25, 29)
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lrr=1", "did you mean 'lr'"),
        ("model.head=spnet", "unknown head 'spnet'; choose one of: deeplabv3, "),
        ("model.backbone=resnet81", "unknown backbone 'resnet81'"),
        ("data.dataset=cityscape", "unknown dataset 'cityscape'; choose one of: ade20k"),
        ("model.pretrained=nothing.pth", "weights file 'nothing.pth' does not exist"),
        ("train.batch_size=64", "12 training images are fewer than train.batch_size 64"),
        ("train.amp=fp16", "fp16 needs a GPU"),
        ("train.batch_size=1 augment.crop=[8,8]", "cannot train on 1 crops of 8x8"),
        ("augment.crop=[1,1]", "augment.crop 1x1 is too small: the network has a feature per 8x8"),
        ("augment.crop=[8,64]", "pixels; use 9x64 or larger"),
        ("eval.protocol=slide eval.crop=[64,8]", "eval.crop 64x8 is too small"),
        ("model.freeze=1", "freeze keeps pretrained weights"),
        ("train.batch_size=1 model.head=psp", "model.norm: group"),
        ("data.std=[0.5,0.5,0.5]", "data.std is given without data.mean; give both, or neither"),
        ("data.mean=[0.5,0.5,0.5]", "data.mean is given without data.std"),
        ("model.norm=frozen", "norm: frozen keeps pretrained statistics"),
        ("model.attention=sse", "unknown attention 'sse'; choose one of: cbam"),
        ("loss.terms.hinge=1.0", "unknown loss 'hinge'; choose one of: boundary_cross_entropy"),
        ("loss.terms={}", "loss.terms: dictionary should have at least 1 item"),
        ("loss.class_weights=[0.0,0.0]", "class_weights must not all be 0"),
        ("loss.class_weights=[1.0,2.0]", "has 2 numbers, the dataset has 9 classes"),
        ('augment.extra=[{"name":"Fog"}]', "albumentations has no transform"),
    ],
)
def test_unusable_settings_are_one_line_and_no_run_folder(
    tiny: list[str], capsys: pytest.CaptureFixture[str], override: str, expected: str
) -> None:
    assert call(train_command, "--config", QUICKSTART, *tiny, *override.split()) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert said.err.count("\n") == 1
    assert not folder_of(tiny).exists()


@pytest.mark.parametrize(
    "settings",
    [
        [
            "loss.terms={cross_entropy: 1.0, lovasz_softmax: 0.5}",
            "loss.class_weights=auto",
            "data.sampling=rare_crops",
            "data.cache=ram",
            "data.workers=2",
            "model.aux=true",
        ],
        [
            "model.head=psp",
            "model.norm=group",
            "model.attention=cbam",
            "model.attention_places=all",
            "optim.name=adamw",
            "data.cache=disk",
            "data.stream=true",
            "augment.extra=[{name: GaussNoise, p: 0.5}]",
            "train.batch_size=1",
        ],
    ],
    ids=["balanced", "one image at a time"],
)
def test_settings_work_together(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert call(train_command, "--config", QUICKSTART, *tiny, *settings, "train.epochs=1") == 0
    assert call(evaluate_command, folder_of(tiny)) == 0
    assert (
        call(train_command, "--config", QUICKSTART, *tiny, *settings, "train.epochs=1", "--resume")
        == 0
    )


def test_half_written_record_does_not_stop_a_resumed_run(tiny: list[str]) -> None:
    short = [*tiny, "train.epochs=1"]
    assert call(train_command, "--config", QUICKSTART, *short) == 0
    records = folder_of(tiny) / "metrics.jsonl"
    before = records.read_text()
    records.write_text(before + '{"kind": "train", "st')
    assert call(train_command, "--config", QUICKSTART, *short, "--resume") == 0
    assert records.read_text() == before


def test_wrong_checkpoint_and_wrong_data_for_evaluation(
    tiny: list[str], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(evaluate_command, tmp_path / "nothing") == 2
    assert "does not exist; give a run folder" in capsys.readouterr().err
    assert call(train_command, "--config", QUICKSTART, *tiny, "train.epochs=1") == 0
    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    (other / "classes.txt").write_text("cat\ndog\n")
    (other / "colors.txt").unlink()
    assert call(evaluate_command, folder_of(tiny), "--data", other) == 2
    error = capsys.readouterr().err
    assert "the data has 2 classes, the model 9" in error
    assert "only the data has cat, dog; only the model has sky, building, road" in error
    (other / "classes.txt").unlink()
    assert call(evaluate_command, folder_of(tiny), "--data", other, "--workers", 0) == 0
    assert call(evaluate_command, folder_of(tiny), "--workers", -1) == 2
    assert call(evaluate_command, folder_of(tiny) / "config.yaml") == 2
    assert "is a file; give a run folder" in capsys.readouterr().err


def test_help_and_print_config_answer_without_loading_torch(run_command: RunCommand) -> None:
    for verb, option in (("train", "--help"), ("evaluate", "--help"), ("scenes", "-h")):
        done = run_command(verb, option)
        assert done.returncode == 0
        assert f"usage: sceneparse {verb} " in done.stdout
    done = run_command("train", "--config", QUICKSTART, "optim.lr=1e-3", "--print-config")
    assert "lr: 0.001" in done.stdout
    assert "# initial learning rate of the backbone" in done.stdout
