"""The first rung: a light head on cached maps of a frozen backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sceneparse import Predictor
from sceneparse.auto import first as first_module
from sceneparse.auto.features import (
    compute_crops,
    spread_order,
    trained_maps,
)
from sceneparse.auto.first import First, train_first
from sceneparse.auto.light import Light, build_light, take_steps, time_step, trained_state
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import train as train_command
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import create_dataset
from sceneparse.data.sampling import Draw
from sceneparse.errors import InputError
from sceneparse.runtime.distributed import Process
from sceneparse.training.segmentation import training_samples
from tests.test_train_seg import call

CPU = Process(0, 1, torch.device("cpu"))
BACKBONE = "test_resnet.r160_in1k"


def save_weights(path: Path, backbone: str = BACKBONE) -> Path:
    """Write random weights under timm's names."""
    import timm  # noqa: PLC0415

    torch.manual_seed(3)
    network = timm.create_model(backbone, pretrained=False)
    save_file({k: x.contiguous() for k, x in network.state_dict().items()}, path)
    return path


def settings(root: Path, weights: Path | None, **changes: Any) -> SegConfig:
    model = {"backbone": BACKBONE, "pretrained": weights and str(weights), "output_stride": 32}
    sections: dict[str, Any] = {
        "data": {"dataset": "folder", "root": str(root), "workers": 0},
        "augment": {"crop": [65, 97], "scale": [0.8, 1.2]},
        "model": {**model, **changes.pop("model", {})},
        "train": {"amp": "off"},
    }
    return SegConfig.model_validate({**sections, **changes})


class Clock:
    """Advances by `step` seconds whenever it is read."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def go(config: SegConfig, folder: Path, seconds: float = 160, **options: Any) -> First:
    """Run the first rung by a clock on which every step takes a second."""
    options = {"clock": Clock(1.0), **options}
    sets = [create_dataset("folder", config.data.root, split) for split in ("train", "val")]
    return train_first(config, folder, *sets, seconds=seconds, process=CPU, **options)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights") / "backbone.safetensors")


@pytest.fixture(scope="module")
def ran(scenes: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """The result of a first rung on 12 small scenes."""
    return go(settings(scenes, weights), tmp_path_factory.mktemp("auto") / "first")


def light_of(config: SegConfig) -> Light:
    return build_light(config, create_dataset("folder", config.data.root, "train").table, CPU)


def crops_of(light: Light, limit: int = 6) -> Any:
    train_set = create_dataset("folder", light.config.data.root, "train")
    left = iter(range(limit))
    return compute_crops(
        light.model,
        [training_samples(light.config, train_set, light.normalize) for _ in range(3)],
        normalize=light.normalize,
        compute=light.compute,
        enough=lambda: next(left, None) is None,
        budget=1e9,
    )


def test_score_is_what_evaluate_computes_on_the_checkpoint(ran: First) -> None:
    assert call(evaluate_command, ran.folder) == 0
    result = json.loads((ran.folder / "eval_val" / "eval.json").read_text())
    assert ran.compared == ran.validated == 5
    assert result["mean_iou"] == ran.mean_iou == max(ran.by_weights.values())
    assert set(ran.by_weights) == {"none", "auto"}


def test_folder_is_a_run_that_other_commands_read(
    ran: First, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = Predictor(ran.folder)
    image, _, _ = create_dataset("folder", scenes, "val")[0]
    assert predictor(image).labels.shape == image.shape[:2]
    (record,) = map(json.loads, (ran.folder / "metrics.jsonl").read_text().splitlines())
    assert (record["kind"], record["mean_iou"], record["steps"]) == ("val", ran.mean_iou, ran.steps)
    assert (ran.folder / "pictures" / "epoch-0001.png").stat().st_size > 1000
    assert not list(ran.folder.parent.glob(".*"))
    # it cannot be resumed, and says so in a line
    assert call(train_command, "--config", ran.folder / "config.yaml", "--resume") == 2
    assert "training state does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("backbone", [BACKBONE, "test_vit.r160_in1k"])
def test_cached_maps_give_the_logits_of_the_network(
    backbone: str, scenes: Path, tmp_path: Path
) -> None:
    """Images of 64x96 pixels; the transformer has a pyramid, which is trained with the head."""
    weights = save_weights(tmp_path / "backbone.safetensors", backbone)
    model = {"backbone": backbone, "output_stride": 16}
    config = settings(scenes, weights, model=model, augment={"crop": [64, 96], "flip": 0.5})
    light = light_of(config)
    crops = crops_of(light)
    samples = training_samples(
        light.config, create_dataset("folder", scenes, "train"), light.normalize
    )
    image, target, _ = samples[Draw(0, spread_order(12)[4])]
    with torch.no_grad():
        expected = light.model(light.normalize(image[None]), upsample=False)["out"]
        maps, targets = crops.batch([4], light.compute)
        found = light.model.head(trained_maps(light.model.backbone, maps, crops.size))
    assert crops.maps[4][3].dtype == torch.float16
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()
    places = [np.linspace(0, side - 1, -(-side // 4)).round().astype(int) for side in (64, 96)]
    np.testing.assert_array_equal(targets[0].numpy(), target.numpy()[np.ix_(*places)])


def test_training_changes_the_head_alone_and_repeats(scenes: Path, weights: Path) -> None:
    light = light_of(settings(scenes, weights))
    crops = crops_of(light)
    before = {k: x.clone() for k, x in light.model.state_dict().items()}
    assert time_step(light, crops) > 0
    losses = [list(take_steps(light, crops, 5, None))]
    after = light.model.state_dict()
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"head"}
    light.model.load_state_dict(before)
    losses.append(list(take_steps(light, crops, 5, None)))
    assert losses[0] == losses[1]
    assert set(trained_state(light.model)) == {k for k in before if k.startswith("head.")}


@pytest.mark.parametrize("better", ["none", "auto"])
def test_better_weights_are_kept(
    better: str, scenes: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever head is better: the other one is made useless by training it with one class."""
    monkeypatch.setattr(first_module, "_MIN_STEPS", 60)
    given = first_module.weights_of_rule

    def spoilt(rule: str, crops: Any, light: Light) -> torch.Tensor | None:
        one = torch.eye(light.table.num_classes)[0]
        return given(rule, crops, light) if rule == better else one

    monkeypatch.setattr(first_module, "weights_of_rule", spoilt)
    ran = go(settings(scenes, weights), tmp_path / "first")
    assert max(ran.by_weights, key=lambda rule: ran.by_weights[rule]) == better
    assert ran.mean_iou == ran.by_weights[better] > min(ran.by_weights.values())
    text = (ran.folder / "config.yaml").read_text()
    assert f"class_weights: {'null' if better == 'none' else 'auto'}" in text


def test_time_limit_decides_how_much_is_done(scenes: Path, weights: Path, tmp_path: Path) -> None:
    config = settings(scenes, weights)
    # a step takes a second of this clock: 40 of 100 seconds are for maps, in groups of four
    ran = go(config, tmp_path / "first", 100)
    assert 4 * 20 < ran.crops <= 4 * 40
    assert ran.steps == first_module._MIN_STEPS
    assert ran.seconds <= 100
    # no time at all: the least that can be done
    ran = go(config, tmp_path / "first", 1e-3)
    assert (ran.compared, ran.validated, ran.crops) == (5, 5, 4)
    assert set(ran.by_weights) == {"none"}


def test_leaves_folders_of_others_alone(scenes: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a run folder"):
        go(settings(scenes, weights), tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").is_file()


@pytest.mark.parametrize("size", [1, 2, 5, 12, 367])
def test_every_beginning_of_the_order_is_spread(size: int) -> None:
    order = spread_order(size)
    assert sorted(order) == list(range(size))
    for count in range(1, size):
        gaps = np.diff([-1, *sorted(order[:count]), size])
        assert gaps.max() <= 3 * -(-size // count)
