"""Classification end to end: several seeds, honest summaries, exact resumption."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from test_classes import animals  # noqa: F401 - a fixture
from test_train_seg import call

import sceneparse
from sceneparse.cli import classify as classify_command
from sceneparse.config.classification import ClsConfig, ClsOptimSection
from sceneparse.config.loading import load_config, render_config
from sceneparse.errors import InputError, Preempted
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.runtime.distributed import Process
from sceneparse.studies.seeds import spread_of
from sceneparse.training.classification import load_data, prepare_seed
from sceneparse.training.run import train

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/cifar10_resnet18.yaml"


@pytest.fixture
def small(animals: Path, tmp_path: Path) -> list[str]:  # noqa: F811
    """Overrides that make the CIFAR recipe a run of a second."""
    return [
        "data.dataset=folder",
        f"data.root={animals}",
        "data.size=16",
        "model=resnet20",
        "train.epochs=3",
        "train.batch_size=8",
        "train.amp=off",
        "optim.milestones=[2]",
        f"output={tmp_path / 'runs'}",
    ]


def output_of(settings: list[str]) -> Path:
    return Path(next(s.partition("=")[2] for s in settings if s.startswith("output=")))


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/cifar*.yaml")), ids=lambda p: p.stem)
def test_configurations_are_the_reports_recipe(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [], ClsConfig)
    lr, epochs = (0.2, 8) if path.stem.endswith("_short") else (0.1, 200)
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (lr, 0.9, 5e-4)
    assert (config.train.epochs, config.train.batch_size) == (epochs, 128)
    assert (config.optim.milestones, config.optim.gamma) == ([100, 150], 0.1)
    assert (config.augment.padding, config.augment.mirror, config.optim.nesterov) == (
        4,
        True,
        False,
    )
    again = tmp_path / "again.yaml"
    again.write_text(render_config(config, explain=True))
    assert load_config(again, [], ClsConfig) == config


def test_recipe_with_adam_takes_its_usual_rate() -> None:
    assert load_config(CONFIG, ["optim.name=adam"], ClsConfig).optim.lr == 0.001


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.1), ("adam", 0.001), ("adamw", 0.001)])
def test_learning_rate_that_is_not_given_is_the_optimisers_usual_one(name: str, lr: float) -> None:
    config = load_config(CONFIG, [f"optim.name={name}", "optim.lr=null"], ClsConfig)
    assert f"lr: {lr}" in render_config(config)
    # what a run that is resumed is compared with
    assert config == load_config(CONFIG, [f"optim.name={name}", f"optim.lr={lr}"], ClsConfig)
    assert ClsOptimSection.model_validate({"name": name}).lr == lr
    assert ClsOptimSection.model_validate({"name": name, "lr": 0.5}).lr == 0.5


def test_seeds_become_runs_and_a_summary(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*small, "optim.milestones=[2, 9]", "seeds=0-2", "attention=strip_pooling"]
    assert call(classify_command, "--config", CONFIG, *settings) == 0
    printed = capsys.readouterr().out
    assert "optim.milestones [9] are not reached in train.epochs 3" in printed
    output = output_of(small)
    summary = json.loads((output / "summary.json").read_text())
    last = []
    for seed in range(3):
        lines = (output / f"seed-{seed}/metrics.jsonl").read_text().splitlines()
        epochs = [r for r in map(json.loads, lines) if r["kind"] == "val"]
        assert len(epochs) == 3
        last.append(epochs[-1]["test_accuracy"])
        rates = [r["lr"] for r in map(json.loads, lines) if r["kind"] == "train"]
        assert rates[-1] == pytest.approx(0.01)
        last_checkpoint = resolve_checkpoint(output / f"seed-{seed}/last")
        meta = json.loads((last_checkpoint / "meta.json").read_text())
        assert meta["classes"] == ["cat", "dog"]
    assert summary["accuracy, last epoch"]["values"] == last
    assert summary["accuracy, last epoch"]["mean"] == pytest.approx(np.mean(last))
    assert "best epoch was chosen by the test images, which flatters it" in printed
    assert (output / "curves.png").is_file()

    # the model of the checkpoint is worth what was written down
    model = sceneparse.load_model(output / "seed-2/last")
    assert model.classes == ["cat", "dog"]
    _, test = load_data(load_config(CONFIG, settings, ClsConfig))
    pixels = (test.images / 255 - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(
        model.std
    ).view(3, 1, 1)
    right = model(pixels).argmax(dim=1) == test.targets
    assert right.double().mean() == pytest.approx(last[2])
    with pytest.raises(InputError, match="holds a classifier"):
        sceneparse.Predictor(output / "seed-2")

    # finished runs stay as they are, a new seed is added, and one that was killed before its first
    # checkpoint begins anew
    shutil.rmtree(output / "seed-2/checkpoints")
    for name in ("last", "best"):
        (output / f"seed-2/{name}").unlink()
    before = (output / "seed-1/metrics.jsonl").read_text()
    again = [*settings, "seeds=1-3"]
    assert call(classify_command, "--config", CONFIG, *again, "--resume") == 0
    assert (output / "seed-1/metrics.jsonl").read_text() == before
    assert len((output / "seed-2/metrics.jsonl").read_text().splitlines()) == len(lines)
    assert len(json.loads((output / "summary.json").read_text())["loss, last epoch"]["values"]) == 3
    assert call(classify_command, "--config", CONFIG, *again) == 2
    assert "holds a run; resume it with --resume" in capsys.readouterr().err


def test_held_out_images_choose_the_best_epoch(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(classify_command, "--config", CONFIG, *small, "data.holdout=4") == 0
    printed = capsys.readouterr().out
    assert "best epoch by held-out images" in printed
    assert "flatters" not in printed
    lines = (output_of(small) / "seed-0/metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    assert {"holdout_accuracy", "holdout_loss", "test_accuracy", "test_loss"} <= set(record)


@pytest.mark.fault(39, 44)
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_resumed_run_equals_the_uninterrupted_one(
    small: list[str], tmp_path: Path, steps: int
) -> None:
    process = Process(0, 1, torch.device("cpu"))
    weights = []
    for name in ("whole", "parts"):
        config = load_config(CONFIG, [*small, f"output={tmp_path / name}"], ClsConfig)
        data = load_data(config)
        if name == "parts":
            training = prepare_seed(config, 0, data, process, resume=False, overwrite=False)
            stopped_after(training, steps)
        training = prepare_seed(config, 0, data, process, resume=name == "parts", overwrite=False)
        train(training)
        weights.append(training.model.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def stopped_after(training: Any, steps: int) -> None:
    """Train, and have a real signal arrive once the given number of steps is done."""
    step = training.stepper.step

    def step_then_signal(*arguments: Any) -> Any:
        stepped = step(*arguments)
        if training.steps_done + 1 == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return stepped

    training.stepper.step = step_then_signal
    with pytest.raises(Preempted, match="SIGTERM received, saved after step"):
        train(training)


def test_spread_is_students() -> None:
    values = [0.94, 0.95, 0.955, 0.949, 0.952]
    found = spread_of(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


@pytest.mark.fault(1, 6, 29)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["seeds=4-1"], "seeds: write them as 3, 0-4 or [0, 1, 2], the smaller first, got '4-1'"),
        (["seeds=0-1,4"], "write them as 3, 0-4 or [0, 1, 2]"),
        (["seeds=[1, 1]"], "seeds must differ"),
        (["attention=magic"], "unknown attention 'magic'"),
        (["model=resnet19"], "unknown model 'resnet19'"),
        (["optim.nmae=sgd"], "optim.nmae: unknown key, did you mean 'name'"),
        (["data.holdout=20"], "data.holdout must be in 1..19"),
        (["data.limit=21"], "data.limit must be in 1..19"),
        (["data.limit=10", "data.holdout=10"], "data.holdout must be in 1..9"),
        (["data.mean=[0.5,0.5,0.5]"], "data.mean is given without data.std; give both"),
        (["train.batch_size=64"], "fewer than train.batch_size 64"),
        (["train.batch_size=19", "data.size=4"], "cannot train on 1 crops of 4x4 at once"),
    ],
)
def test_bad_settings_are_one_line_and_leave_no_run(
    small: list[str], settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(classify_command, "--config", CONFIG, *small, *settings) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line
    assert not output_of(small).exists()


def test_missing_cifar_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    config = load_config(CONFIG, [f"data.root={tmp_path}"], ClsConfig)
    with pytest.raises(InputError, match=r"could not be downloaded .*Network is unreachable"):
        load_data(config)
