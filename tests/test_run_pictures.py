"""The pictures, TensorBoard records and closing lines of a training run, against its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional

import sceneparse
from sceneparse.cli import train as train_command
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import create_dataset
from sceneparse.inference.protocols import create_protocol
from sceneparse.report import run_plots
from sceneparse.runtime.distributed import Process
from sceneparse.training import pictures, validation
from sceneparse.training.run import train
from sceneparse.training.segmentation import prepare_training
from tests.test_train_seg import QUICKSTART, call, folder_of

WEIGHTS = [0.5, 1.0, 0.5, 2.0, 2.0, 1.0, 3.0, 0.0, 1.5]
NAMES = ("curves.png", "labels.png", "augmented.png", "worst.png")


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the functions that draw are called with, and what they return."""
    seen: dict[str, list[Any]] = {}
    places = {
        "augmented_grid": pictures,
        "worst_grid": validation,
        "draw_label_shares": run_plots,
        "draw_curves": run_plots,
    }
    for name, module in places.items():
        draw = getattr(module, name)

        def record(*arguments: Any, name: str = name, draw: Any = draw) -> Any:
            result = draw(*arguments)
            seen.setdefault(name, []).append((arguments, result))
            return result

        monkeypatch.setattr(module, name, record)
    return seen


def test_pictures_show_the_run(
    tiny: list[str], scenes: Path, tmp_path: Path, drawn: dict[str, list[Any]]
) -> None:
    settings = [*tiny, "eval.every=1", "train.epochs=3", f"loss.class_weights={WEIGHTS}"]
    config = load_config(QUICKSTART, settings, SegConfig)
    training = prepare_training(config, Process(0, 1, torch.device("cpu")))
    folder = folder_of(tiny)
    assert all((folder / name).is_file() for name in ("labels.png", "augmented.png"))
    first = next(iter(training.batches()))
    (crops, _), _ = drawn["augmented_grid"][0]
    assert len(crops) == 12
    for (image, mask), expected, targets in zip(crops, first.images, first.targets, strict=False):
        assert np.array_equal(image, expected.permute(1, 2, 0))
        assert np.array_equal(mask, targets)
    train(training)
    for name in NAMES:
        assert np.asarray(Image.open(folder / name).convert("RGB")).std() > 10, name

    # labels.png: counted by hand
    masks = [np.asarray(Image.open(path)) for path in sorted((scenes / "train/labels").iterdir())]
    pixels, images = drawn["draw_label_shares"][0][1].axes
    shares = [100 * np.mean([np.mean(mask == k) for mask in masks]) for k in range(9)]
    assert [bar.get_width() for bar in pixels.patches] == pytest.approx(shares)
    shown = [sum((mask == k).any() for mask in masks) for k in range(9)]
    assert [bar.get_width() for bar in images.patches] == shown

    # curves.png: drawn from metrics.jsonl
    records = records_of(folder)
    tested = [record for record in records if record["kind"] == "val"]
    trained = [record for record in records if record["kind"] == "train"]
    loss, score, rate = drawn["draw_curves"][-1][1].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.get_lines()}
    assert lines["training, each log"] == [[r["step"] / 3, r["loss"]] for r in trained]
    assert lines["validation, cross entropy"] == [[r["epoch"], r["loss"]] for r in tested]
    best = max(tested, key=lambda record: record["mean_iou"])
    curve, star = score.get_lines()
    assert curve.get_xydata().tolist() == [[r["epoch"], r["mean_iou"]] for r in tested]
    assert star.get_xydata().tolist() == [[best["epoch"], best["mean_iou"]]]
    assert rate.get_lines()[0].get_xydata().tolist() == [[r["step"] / 3, r["lr"]] for r in trained]

    # validation loss and worst.png: from the probabilities of the saved model
    predictor = sceneparse.Predictor(folder / "best", device="cpu")
    dataset = create_dataset("folder", scenes, "val")
    total, weight, scores = 0.0, 0.0, {}
    for image, truth, name in dataset:
        with torch.inference_mode():
            inputs = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
            scored = predictor.protocol(predictor.model, predictor.normalize(inputs))
            logs = scored.probabilities().log()
        weights = torch.tensor(WEIGHTS)
        targets = torch.from_numpy(truth.astype(np.int64))[None]
        total += float(functional.nll_loss(logs, targets, weights, reduction="sum"))
        weight += float(weights[targets].sum())
        found = logs.argmax(1)[0].numpy()
        both = [((truth == k) & (found == k), (truth == k) | (found == k)) for k in range(9)]
        scores[name] = np.mean([(a.sum() / b.sum()) for a, b in both if b.any()])
    assert best["loss"] == pytest.approx(total / weight, rel=1e-5)
    (worst, _), _ = drawn["worst_grid"][-1]
    expected_worst = sorted((value, name) for name, value in scores.items())[:4]
    assert [example.name for _, example in worst] == [name for _, name in expected_worst]
    assert [value for value, _ in worst] == pytest.approx([value for value, _ in expected_worst])


@pytest.mark.parametrize(
    "settings",
    [{"name": "whole"}, {"name": "whole", "mirror": True}, {"name": "slide", "crop": (33, 49)}],
    ids=["one view", "mirrored", "windows"],
)
def test_loss_is_that_of_the_probabilities(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = sceneparse.create_segmentation_model(
        backbone="resnet18", base_width=8, width=8, aux=False, num_classes=5
    ).eval()
    protocol = create_protocol(settings.pop("name"), dataset="folder", **settings)
    images, targets = torch.randn(2, 3, 60, 75), torch.randint(0, 5, (2, 60, 75))
    targets[0, :20], weights = 255, torch.rand(5)
    with torch.inference_mode():
        labels, sums = protocol(model, images).labels_and_loss(targets, weights)
        scored = protocol(model, images)
        assert torch.equal(labels, scored.labels())
        logs = protocol(model, images).probabilities().log()
    expected = functional.nll_loss(logs, targets, weights, ignore_index=255, reduction="sum")
    assert sums.tolist() == pytest.approx(
        [float(expected), float(weights[targets[targets < 5]].sum())], rel=1e-5
    )


def test_pictures_that_cannot_be_drawn_are_logged(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room for a picture")

    monkeypatch.setattr(pictures, "augmented_grid", fail)
    monkeypatch.setattr(validation, "worst_grid", fail)
    monkeypatch.setattr(run_plots, "draw_curves", fail)
    monkeypatch.setattr(run_plots, "draw_label_shares", fail)
    assert call(train_command, "--config", QUICKSTART, *tiny, "train.epochs=1") == 0
    lines = [line for line in logged if "was not drawn (MemoryError" in line]
    assert sorted(Path(line.split()[0]).name for line in lines) == sorted(NAMES)
    assert not any((folder_of(tiny) / name).exists() for name in NAMES)


def test_tensorboard_and_the_last_lines(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tiny)
    assert call(train_command, "--config", QUICKSTART, *tiny) == 0
    printed = capsys.readouterr().out
    final = [record for record in records_of(folder) if record["kind"] == "val"][-1]
    model = sceneparse.load_model(folder)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert f"best         mean IoU {final['mean_iou']:.4f} in epoch 2 of 2" in printed
    assert f"resnet18 with head strip_pooling, {millions:.2f} M parameters, from scratch" in printed
    assert f"next         sceneparse evaluate {folder} --report" in printed

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    (loss,) = events.Scalars("val/loss")
    assert (loss.step, loss.value) == (6, pytest.approx(final["loss"]))
    for row in final["classes"]:
        if row["iou"] is not None:
            (value,) = events.Scalars(f"val IoU/{row['name']}")
            assert value.value == pytest.approx(row["iou"])
    (settings,) = events.Tensors("settings/text_summary")
    shown = settings.tensor_proto.string_val[0].decode()
    assert [line.strip() for line in shown.splitlines()] == [
        line.strip() for line in (folder / "config.yaml").read_text().splitlines()
    ]
