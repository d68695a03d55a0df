"""Devices: which is chosen, what is refused, and everything on a pretended GPU of a Mac."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeRun
from test_train_seg import QUICKSTART, call, folder_of
from torch import Tensor, nn

import sceneparse
from sceneparse.cli import calibrate as calibrate_command
from sceneparse.cli import check as check_command
from sceneparse.cli import classify as classify_command
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import train as train_command
from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.image_folders import LabelledImages
from sceneparse.errors import InputError
from sceneparse.evaluation.calibrate import calibrate
from sceneparse.evaluation.dataset import evaluate_dataset
from sceneparse.evaluation.result import Evaluation
from sceneparse.inference import predictor as predictor_module
from sceneparse.inference.predictor import Predictor
from sceneparse.inference.prepare import prepare_for_inference
from sceneparse.layers.attention import ATTENTION
from sceneparse.layers.pooling import pool_to_grid
from sceneparse.losses import LOSSES
from sceneparse.models.heads import HEADS
from sceneparse.runs.checkpoint import load_segmentation_model
from sceneparse.runs.folder import changed_settings
from sceneparse.runtime import devices
from sceneparse.runtime.devices import choose_device
from sceneparse.runtime.distributed import Process, join_processes
from sceneparse.runtime.precision import Compute, auto_dtype, choose_dtype
from sceneparse.studies.segmentation import read_study
from sceneparse.studies.sweep.plan import read_plan
from sceneparse.training.classification import prepare_seed
from sceneparse.training.run import Training, epoch_steps
from sceneparse.training.segmentation import assemble_run
from tests.pretended import MPS, OnMps, PretendedMps

CPU = torch.device("cpu")
ALL_LOSSES = json.dumps(dict.fromkeys(LOSSES, 1.0))


def machine_with(monkeypatch: pytest.MonkeyPatch, gpus: int = 0, mps: bool = False) -> None:
    """Pretend a machine with some NVIDIA GPUs, or a Mac."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: mps)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend a Mac, whose GPU has the limits of Metal."""
    machine_with(monkeypatch, mps=True)
    before = PretendedMps.seen
    with PretendedMps():
        yield
    assert PretendedMps.seen > before  # something ran on it


@pytest.mark.parametrize(
    ("gpus", "mps", "name", "types", "expected"),
    [
        (0, False, None, devices.DEVICE_TYPES, CPU),
        (0, True, None, devices.DEVICE_TYPES, MPS),
        (2, True, None, devices.DEVICE_TYPES, torch.device("cuda")),
        (2, True, None, ("cpu",), CPU),
        (2, False, "cuda:1", devices.DEVICE_TYPES, torch.device("cuda", 1)),
        (2, True, "cpu", devices.DEVICE_TYPES, CPU),
        (0, True, "mps", devices.DEVICE_TYPES, MPS),
        (0, True, "mps:0", devices.DEVICE_TYPES, MPS),
    ],
)
def test_the_best_device_or_the_named_one(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    mps: bool,
    name: str | None,
    types: tuple[str, ...],
    expected: torch.device,
) -> None:
    machine_with(monkeypatch, gpus, mps)
    assert choose_device(name, types) == expected


@pytest.mark.parametrize("name", ["tpu", "", "cuda:", "cuda:x", "mps:1", "cpu:0", "CPU"])
def test_unknown_names_list_what_there_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine_with(monkeypatch, gpus=2)
    with pytest.raises(InputError, match=f"unknown device '{name}'.*cuda:0 or cuda:1 or cpu"):
        choose_device(name)


def test_missing_devices_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, gpus=1)
    with pytest.raises(InputError, match=r"no GPU 'cuda:1' .*1 found; use cuda:0 or cpu"):
        choose_device("cuda:1")
    with pytest.raises(InputError, match=r"'mps' .*without mps.*; use cuda:0 or cpu"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    with pytest.raises(InputError, match=r"needs macOS 12.3 or newer and an Apple GPU"):
        choose_device("mps")
    with pytest.raises(InputError, match="this network runs on cpu only, not on 'cuda'"):
        choose_device("cuda", ("cpu",))


@pytest.mark.parametrize("name", ["mps", "cuda:0"])
def test_processes_do_not_share_a_named_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine_with(monkeypatch, gpus=2, mps=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=f"2 processes cannot share the device '{name}'"):
        join_processes(name).__enter__()


COMMANDS = {
    "train": (train_command, ["--config", QUICKSTART, "train.device={}"]),
    "classify": (classify_command, ["--config", "cifar10_resnet18", "train.device={}"]),
    "calibrate": (calibrate_command, ["{run}", "--device", "{}"]),
    "evaluate": (evaluate_command, ["{run}", "--device", "{}"]),
    "check": (check_command, ["{data}", "--model", "{run}", "--device", "{}"]),
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_missing_device_is_one_line_before_the_start(
    verb: str,
    make_run: MakeRun,
    scenes: Path,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    machine_with(monkeypatch)
    tool, given = COMMANDS[verb]
    values = {"run": make_run("trained"), "data": scenes}
    arguments = [str(part).format("mps", **values) for part in given]
    if verb in {"train", "classify"}:
        arguments += tiny if verb == "train" else [f"output={folder_of(tiny)}"]
    assert call(tool, *arguments) == 2
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "no GPU 'mps'" in line and "use cpu" in line
    assert not folder_of(tiny).exists()


def test_a_device_without_effect_is_refused(
    scenes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(check_command, scenes, "--device", "cpu") == 2
    assert "--device is for --model RUN" in capfd.readouterr().err


def test_rows_and_trials_share_a_device(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("data: {root: here}\n")
    study = tmp_path / "study.yaml"
    study.write_text("config: base.yaml\nreference: a\nrows:\n  a: {}\n  b: {train.device: cpu}\n")
    with pytest.raises(InputError, match="all rows run on one device"):
        read_study(study, ["output=out"])
    (tmp_path / "cls.yaml").write_text("model: resnet20\n")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "config: cls.yaml\nmethod: grid\nmetric: {name: test_loss, goal: minimize}\n"
        "parameters: {train.device: {values: [cpu, mps]}}\n"
    )
    with pytest.raises(InputError, match="a sweep runs on one device"):
        read_plan(sweep, [], None)


def test_another_device_is_no_change_of_a_run() -> None:
    before, now = {"train": {"device": "mps"}}, {"train": {"device": None}}
    assert changed_settings(before, now) == changed_settings({}, now) == []


def test_precision_and_layout_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = True
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: newer)
    assert auto_dtype(MPS) == (None, "on mps, other types must be asked for by name")
    assert choose_dtype("fp16", MPS) == torch.float16
    assert choose_dtype("bf16", MPS) == torch.bfloat16
    newer = False
    with pytest.raises(InputError, match="bf16 needs macOS 14 or newer; use auto, fp16 or off"):
        choose_dtype("bf16", MPS)
    half = Compute(MPS, torch.float16)
    assert half.scaler().is_enabled()
    assert half.memory_format == torch.contiguous_format
    assert Compute(CPU).memory_format == torch.channels_last


def test_compiling_is_refused_on_mps(mac: None, make_run: MakeRun) -> None:
    run = make_run(head="fcn")
    with pytest.raises(InputError, match=r"torch.compile is not reliable on mps"):
        Predictor(run, device="mps", compile=True)
    model = Predictor(run, device="mps").model
    with pytest.raises(InputError, match=r"torch.compile is not reliable on mps"):
        prepare_for_inference(model, compile=True)


def test_prediction_tells_a_type_that_the_device_lacks(
    make_run: MakeRun, logged: list[str]
) -> None:
    model = load_segmentation_model(make_run())
    model.meta["config"]["train"]["amp"] = "fp16"
    assert Predictor(model, device="cpu").compute.dtype is None
    assert "precision: float32, since fp16, as in training, needs a GPU" in logged


@pytest.mark.parametrize("grid", [1, 3, 6, 12, 20])
@pytest.mark.parametrize("size", [(12, 20), (7, 13), (33, 41)])
def test_pooling_to_a_grid_equals_that_on_a_cpu(
    mac: None, grid: int, size: tuple[int, int]
) -> None:
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    own, other = maps.clone().requires_grad_(), OnMps(maps).requires_grad_()
    expected = torch.nn.functional.adaptive_avg_pool2d(own, grid)
    found = pool_to_grid(other, grid)
    torch.testing.assert_close(found.cpu(), expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    (found * weights.to(MPS)).sum().backward()
    assert own.grad is not None and other.grad is not None
    torch.testing.assert_close(other.grad.cpu(), own.grad)


def trained(config: SegConfig, device: torch.device) -> tuple[list[float], dict[str, Any]]:
    """Take the steps of an epoch and validate; return the losses and the scores."""
    train_set, val_set = (
        create_dataset("folder", config.data.root, split) for split in ("train", "val")
    )
    training = assemble_run(config, Process(0, 1, device), train_set, val_set)
    losses = [stepped.loss for _, stepped, _ in epoch_steps(training)]
    model = training.model
    if training.stepper.averaged is not None:
        model = training.stepper.averaged.module
    return losses, dict(training.validate(model).values)


def seg_config(tiny: list[str], *more: str) -> SegConfig:
    settings = [*tiny, "train.channels_last=false", "train.amp=off", *more]
    return load_config(QUICKSTART, settings, SegConfig)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_training_with_all_losses(
    name: str, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = seg_config(
        tiny,
        f"loss.terms={ALL_LOSSES}",
        "loss.class_weights=damped",
        "model.aux=true",
        "optim.clip_norm=1.0",
        f"optim.name={name}",
        "optim.lr=0.001",
        "train.ema=0.5",
        "train.accumulate=2",
        "train.steps_per_epoch=2",
    )
    losses, scores = trained(config, CPU)
    machine_with(monkeypatch, mps=True)
    with PretendedMps():
        own_losses, own_scores = trained(config, MPS)
    assert own_losses == pytest.approx(losses, rel=1e-3)
    assert own_scores["loss"] == pytest.approx(scores["loss"], rel=1e-3)
    assert own_scores["mean_iou"] == pytest.approx(scores["mean_iou"], abs=5e-3)


def step_on_mps(module: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Run a module forwards and backwards on the pretended GPU; return output and gradients."""
    Compute(MPS).place_model(module)
    found = module(OnMps(inputs).requires_grad_())
    outputs = [*found.values()] if isinstance(found, dict) else [found]
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    gradients = [p.grad.cpu() for p in module.parameters() if p.grad is not None]
    return [*(output.detach().cpu() for output in outputs), *gradients]


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains(mac: None, head: str) -> None:
    model = sceneparse.create_segmentation_model(
        head=head, backbone="resnet18", base_width=8, width=8, num_classes=3
    )
    found = step_on_mps(model.train(), torch.randn(2, 3, 49, 65))
    assert all(tensor.isfinite().all() for tensor in found)


@pytest.mark.parametrize("block", ATTENTION)
def test_every_attention_block_trains(mac: None, block: str) -> None:
    found = step_on_mps(ATTENTION[block](16).train(), torch.randn(2, 16, 7, 9))
    assert all(tensor.isfinite().all() for tensor in found)


def test_batch_norms_get_contiguous_maps_behind_layer_norms(mac: None) -> None:
    model = sceneparse.create_segmentation_model(
        head="psp", backbone="convnext_atto", width=8, num_classes=3, output_stride=32
    )
    assert step_on_mps(model.train(), torch.randn(1, 3, 64, 64).expand(2, -1, -1, -1))


def scored(predictor: Predictor, data: SegmentationDataset) -> Evaluation:
    return evaluate_dataset(
        predictor,
        data,
        Process(0, 1, predictor.compute.device),
        resamples=0,
        with_boundary=True,
        for_report=True,
        workers=0,
        facts={},
    )


@pytest.fixture
def plain_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute contiguous maps on the CPU too, so that both round alike."""
    monkeypatch.setattr(Compute, "memory_format", torch.contiguous_format)


@pytest.mark.parametrize(
    "settings",
    [{}, {"protocol": "slide", "crop": (32, 48), "scales": [0.75, 1.0], "mirror": True}],
)
def test_scores_are_those_of_a_cpu(
    settings: dict[str, Any],
    plain_layout: None,
    make_run: MakeRun,
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, data = make_run(head="fcn"), create_dataset("folder", scenes, "val")
    expected = scored(Predictor(run, device="cpu", **settings), data)
    machine_with(monkeypatch, mps=True)
    with PretendedMps():
        found = scored(Predictor(run, device="mps", **settings), data)
    assert found.boundary and expected.boundary and found.regions and expected.regions
    assert found.risk and expected.risk and found.calibration and expected.calibration
    pairs = [
        (found.counts, expected.counts),
        (found.by_image, expected.by_image),
        (found.boundary.counts.numpy(), expected.boundary.counts.numpy()),
        (found.regions.by_size.numpy(), expected.regions.by_size.numpy()),
        (found.risk.coverage, expected.risk.coverage),
        (found.calibration.confidence, expected.calibration.confidence),
    ]
    for own, other in pairs:
        np.testing.assert_array_equal(own, other)


def test_calibration_and_tiles_are_those_of_a_cpu(
    plain_layout: None, make_run: MakeRun, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = make_run(head="fcn"), create_dataset("folder", scenes, "val")
    image = data[0][0]
    for name, value in (("MAX_WHOLE", 2000), ("TILE", 32), ("MARGIN", 8), ("_PART", 48)):
        monkeypatch.setattr(predictor_module, name, value)
    predictor = Predictor(run, device="cpu")
    labels, expected = predictor(image).labels, calibrate(predictor, data, workers=0)
    machine_with(monkeypatch, mps=True)
    with PretendedMps():
        own = Predictor(run, device="mps")
        prediction = own(image)
        found = calibrate(own, data, workers=0)
    assert prediction.tiled
    np.testing.assert_array_equal(prediction.labels, labels)
    assert (found.temperature, found.nll, found.error) == (
        expected.temperature,
        expected.nll,
        expected.error,
    )


def classified(config: ClsConfig, device: torch.device) -> dict[str, Any]:
    """Train a classifier for a few steps on random images, and validate it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8)
    data = LabelledImages(images, torch.arange(12) % 3, ["a", "b", "c"])
    training: Training = prepare_seed(config, 0, (data, data), Process(0, 1, device))
    training.lock.release()
    losses = [stepped.loss for _, stepped, _ in epoch_steps(training)]
    return {"losses": losses, **training.validate(training.model).values}


def test_classifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cls.yaml").write_text(
        "model: resnet20\nattention: strip_pooling\n"
        "train: {batch_size: 4, amp: off, channels_last: false}\n"
    )
    configs = [
        load_config(tmp_path / "cls.yaml", [f"output={tmp_path / name}"], ClsConfig)
        for name in ("cpu", "mps")
    ]
    expected = classified(configs[0], CPU)
    machine_with(monkeypatch, mps=True)
    with PretendedMps():
        found = classified(configs[1], MPS)
    assert found.pop("losses") == pytest.approx(expected.pop("losses"), rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.double(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: torch.zeros(3, dtype=torch.float64, device=x.device),
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: nn.functional.adaptive_avg_pool2d(x.expand(1, 1, 3, 3), 2),
    ],
)
def test_the_pretended_gpu_has_the_limits_of_a_real_one(mac: None, wrong: Any) -> None:
    with pytest.raises((TypeError, RuntimeError, AssertionError)):
        wrong(OnMps(torch.ones(3)))


def test_float64_on_the_device_fails(
    make_run: MakeRun, scenes: Path, mac: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above see float64 wherever `counting_device` were not asked."""
    data, run = create_dataset("folder", scenes, "val"), make_run(head="fcn")
    monkeypatch.setattr(Compute, "counts_on", property(lambda compute: compute.device))
    with pytest.raises(TypeError, match="float64"):
        scored(Predictor(run, device="mps"), data)
