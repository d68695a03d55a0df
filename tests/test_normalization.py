"""Images are normalised as the pretrained weights want it, in training and everywhere after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from test_classes import animals  # noqa: F401 - a fixture
from test_train_cls import CONFIG, small  # noqa: F401 - a fixture
from test_train_seg import QUICKSTART, call
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

import sceneparse
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import train as train_command
from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.image_folders import LabelledImages
from sceneparse.errors import InputError
from sceneparse.runs.checkpoint import newest_intact
from sceneparse.runs.folder import changed_settings
from sceneparse.runtime.distributed import Process
from sceneparse.training.classification import load_data, prepare_seed
from sceneparse.training.normalization import pretrained_statistics
from sceneparse.training.run import Training, save, train
from sceneparse.training.segmentation import prepare_training
from tests.conftest import MakeRun

Values = tuple[list[float], list[float]]
HALF: Values = ([0.5] * 3, [0.5] * 3)
IMAGENET: Values = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PROCESS = Process(0, 1, torch.device("cpu"))


def found(name: str, source: str | Path) -> Values | None:
    statistics = pretrained_statistics({"backbone": name}, source)
    return None if statistics is None else (list(statistics.mean), list(statistics.std))


def timms(name: str, **options: Any) -> Values:
    """Return what timm itself would normalise images with."""
    with torch.device("meta"):
        data = timm.data.resolve_data_config({}, model=timm.create_model(name, **options))
    return list(data["mean"]), list(data["std"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch16_224.augreg_in21k", HALF),
        ("vit_small_patch16_224.dino", IMAGENET),
        ("inception_v3.tf_adv_in1k", HALF),
        ("inception_v3.tv_in1k", HALF),
        ("mobilenetv2_100", IMAGENET),
        ("tf_mobilenetv3_small_minimal_100", HALF),
        ("mixer_b16_224", HALF),
        ("repvgg_a0", IMAGENET),
        ("vit_base_patch32_clip_224.openai", None),
        ("sam2_hiera_tiny", None),
        ("tf_efficientnet_lite0", None),
        ("darknet53", None),
    ],
)
def test_values_of_timms_weights_are_timms(
    name: str, expected: Values | None, tmp_path: Path
) -> None:
    """The numbers written here are those of the weights' authors."""
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    for source in ("imagenet", tmp_path / "weights.safetensors"):
        assert found(name, source) == timms(name)
        assert expected is None or found(name, source) == expected


def test_the_path_of_a_file_names_the_weights(tmp_path: Path) -> None:
    for name, expected in (("dino", IMAGENET), ("augreg_in1k", HALF), ("mine", HALF)):
        path = tmp_path / f"vit_small_patch16_224.{name}.safetensors"
        save_file({"weight": torch.zeros(1)}, path)
        assert found("vit_small_patch16_224", path) == expected
        assert found("vit_small_patch16_224.dino", path) == (HALF if "aug" in name else IMAGENET)


@pytest.mark.parametrize(
    ("name", "stem", "weights"),
    [
        ("resnet50", "deep", "resnet50s.gluon_in1k"),
        ("resnet18", "plain", "resnet18.tv_in1k"),
        ("resnet18", "deep", None),
    ],
)
def test_values_of_our_resnets_are_those_of_timms_weights(
    name: str, stem: Any, weights: str | None
) -> None:
    with torch.device("meta"):
        model = sceneparse.create_segmentation_model("fcn", name, 3, stem=stem)
    statistics = pretrained_statistics(model.meta["model"], "imagenet")
    assert (statistics is None) == (weights is None)
    if statistics is not None and weights is not None:
        assert (list(statistics.mean), list(statistics.std)) == timms(weights)
        assert statistics.origin == f"as in timm's {weights}"


def test_files_beside_which_timm_wrote_its_settings(tmp_path: Path) -> None:
    """A repository of timm on the hub holds config.json; the weights can be of another tag."""
    overlay = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    network = timm.create_model("test_convnext", pretrained_cfg_overlay=overlay)
    timm.models.save_for_hf(network, tmp_path, safe_serialization="both")
    expected = ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    for place in (tmp_path, tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin"):
        assert found("test_convnext", place) == expected
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | config.pop("pretrained_cfg")))
    assert found("test_convnext", tmp_path) == expected  # as old versions of timm wrote it
    for wrong in ([0.1], [float("nan")] * 3, "abc"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "mean": wrong}))
        with pytest.raises(InputError, match=r"config\.json"):
            found("test_convnext", tmp_path)


def test_values_of_a_run_are_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    sceneparse.load_model(run).save_pretrained(tmp_path / "saved")  # type: ignore[union-attr]
    checkpoint = run / "checkpoints/step-00000001"
    for place in (run, checkpoint, checkpoint / "model.safetensors", tmp_path / "saved"):
        assert found("tf_mobilenetv3_small_100", place) == ([0.5] * 3, [0.25] * 3)


@pytest.fixture
def half(tiny: list[str], tmp_path: Path) -> list[str]:
    """Settings of a run from weights of a timm model that wants 0.5; crops are padded."""
    assert timms("test_convnext") == HALF
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "half.safetensors")
    return [
        *tiny,
        "model.backbone=test_convnext",
        "model.output_stride=32",
        f"model.pretrained={tmp_path / 'half.safetensors'}",
        "augment.crop=[96,128]",
        "augment.scale=[0.5,1.0]",
        "augment.color_jitter=0.0",
        "augment.blur=0.0",
        "train.amp=off",
    ]


def prepared(settings: list[str], *more: str, **earlier: bool) -> Training:
    return prepare_training(
        load_config(QUICKSTART, [*settings, *more], SegConfig), PROCESS, **earlier
    )


def stored(folder: Path) -> Values:
    """Return what the newest checkpoint says."""
    saved = newest_intact(folder)
    assert saved is not None
    return saved.meta["mean"], saved.meta["std"]


@pytest.mark.parametrize(
    ("more", "values", "origin"),
    [
        ([], HALF, "as in timm's test_convnext.r160_in1k"),
        (["model.pretrained=null"], IMAGENET, "ImageNet's"),
        (
            ["data.mean=[0.1,0.2,0.3]", "data.std=[0.4,0.5,0.6]"],
            ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
            "data.mean, data.std",
        ),
    ],
)
def test_the_network_is_fed_what_the_checkpoint_says(
    half: list[str], logged: list[str], more: list[str], values: Values, origin: str
) -> None:
    training = prepared(half, "train.epochs=1", *more)
    mean, std = values
    assert f"images are normalised with mean {mean}, std {std} ({origin})" in logged
    warned = [line for line in logged if "the pretrained weights were trained with" in line]
    assert len(warned) == (origin == "data.mean, data.std")

    pixels, fed = list[Tensor](), list[Tensor]()
    batches, forward, padded = training.batches, training.forward, 0

    def recorded_batches() -> Any:
        nonlocal padded
        for batch in batches():
            pixels.append(batch.images.clone())
            outside = (batch.targets == 255)[:, None].expand_as(batch.images)
            colors = batch.images.permute(1, 0, 2, 3)[:, outside[:, 0]]
            assert all((c == round(255 * m)).all() for c, m in zip(colors, mean, strict=True))
            padded += colors.numel()
            yield batch

    def recorded_forward(model: nn.Module, images: Tensor) -> Any:
        fed.append(images.detach().clone())
        return forward(model, images)

    training.batches, training.forward = recorded_batches, recorded_forward
    train(training)
    assert stored(training.folder) == values
    assert padded and pixels
    torch.testing.assert_close(torch.cat(fed), normalize(torch.cat(pixels) / 255, mean, std))

    # validation, evaluation and prediction
    predictor = sceneparse.Predictor(training.folder)
    for normalization in (training.normalize, predictor.normalize):
        torch.testing.assert_close(normalization(pixels[0]), normalize(pixels[0] / 255, mean, std))
    validated = json.loads((training.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert call(evaluate_command, training.folder) == 0
    evaluated = json.loads((training.folder / "eval_val/eval.json").read_text())
    assert evaluated["mean_iou"] == validated["mean_iou"]


def test_a_fine_tuned_run_keeps_the_values_of_its_source(
    tiny: list[str], make_run: MakeRun, tmp_path: Path, logged: list[str]
) -> None:
    source = shutil.copytree(make_run(), tmp_path / "source")
    settings = [*tiny, f"model.pretrained={source}", "train.amp=off", "model.stem=deep"]
    settings += ["model.aux=false", f"output={tmp_path / 'fine'}"]
    training = prepared(settings)
    save(training)
    training.lock.release()
    assert stored(tmp_path / "fine") == ([0.5] * 3, [0.25] * 3)
    shutil.rmtree(source)
    resumed = prepared(settings, resume=True)
    resumed.lock.release()
    assert (resumed.normalize.mean, resumed.normalize.std) == ((0.5,) * 3, (0.25,) * 3)
    line = "images are normalised with mean [0.5, 0.5, 0.5], std [0.25, 0.25, 0.25]"
    assert f"{line} (as in {source / 'checkpoints/step-00000001'})" in logged
    assert f"{line} (as the run began)" in logged


def test_runs_of_earlier_versions_resume_and_end_bit_for_bit(
    half: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their configurations hold ImageNet's numbers, which were the default."""
    before = [f"data.mean={IMAGENET[0]}", f"data.std={IMAGENET[1]}"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = [*half, "train.epochs=1", "augment.crop=[48,64]"]
    train(prepared(settings, *before, f"output={whole}"))
    training = prepared(settings, *before, f"output={parts}")
    training.stop.name = "SIGTERM"
    with pytest.raises(sceneparse.errors.Preempted):
        train(training)
    arguments = ["--config", QUICKSTART, *settings, f"output={parts}", "--resume"]
    assert call(train_command, *arguments) == 0
    assert f"mean {IMAGENET[0]}, std {IMAGENET[1]} (as the run began)" in str(capsys.readouterr())
    weights, expected = (sceneparse.load_model(x / "last").state_dict() for x in (parts, whole))
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert stored(parts) == IMAGENET
    assert call(train_command, *arguments, "data.mean=[0.1,0.1,0.1]", "data.std=[1,1,1]") == 2
    assert "this is another run: data.mean was None, is [0.1, 0.1, 0.1]" in capsys.readouterr().err


def test_null_is_the_former_default_and_nothing_else() -> None:
    now = {"data": {"mean": None, "std": None}}
    assert changed_settings({"data": {"mean": IMAGENET[0], "std": IMAGENET[1]}}, now) == []
    changed = changed_settings({"data": {"mean": HALF[0], "std": HALF[1]}}, now)
    assert [line.split()[0] for line in changed] == ["data.mean", "data.std"]


def test_changed_tables_name_the_keys_that_differ() -> None:
    changed = changed_settings(
        {"model": {"head_options": {}}}, {"model": {"head_options": {"a": 1}}}
    )
    assert changed == ["model.head_options.a was not set, is 1"]


def first_seed(settings: list[str]) -> tuple[Training, LabelledImages]:
    config = load_config(CONFIG, settings, ClsConfig)
    data = load_data(config)
    training = prepare_seed(config, 0, data, PROCESS)
    training.lock.release()
    return training, data[0]


def test_classifiers_take_those_of_their_weights_or_of_the_images(
    small: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    training, images = first_seed(small)
    pixels = images.images.double() / 255
    assert training.normalize.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    weights = tmp_path / "half.safetensors"
    save_file(timm.create_model("test_convnext").state_dict(), weights)
    more = ["model=timm:test_convnext", f"pretrained={weights}", f"output={tmp_path / 'timm'}"]
    training, _ = first_seed([*small, *more, "data.size=64"])
    assert (training.meta["mean"], training.meta["std"]) == ((0.5,) * 3, (0.5,) * 3)
