"""The benchmark against segmentation_models.pytorch: same weights, same test, true differences."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import nn

from benchmarks import peers_accuracy
from benchmarks.peers_accuracy import Finished, report
from benchmarks.peers_runs import PEERS, REFERENCE, ROWS, Plan, Row, prepare
from benchmarks.peers_speed import Speed
from sceneparse.data.labels import load_label_table
from sceneparse.errors import InputError
from sceneparse.evaluation.result import Stored
from sceneparse.runtime.distributed import Process
from sceneparse.studies.rows import FinishedRun
from tests.test_train_seg import call

smp = pytest.importorskip("segmentation_models_pytorch", reason="needs SMP, in extra dev")
from benchmarks.smp import create_peer  # noqa: E402 - needs SMP

SMALL = ["data.workers=0", "augment.crop=[65, 65]", "augment.scale=[1, 1]", "train.batch_size=2"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of timm's classifier, as its file of ImageNet weights names them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2_100.safetensors"
    save_file(timm.create_model("mobilenetv2_100").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images and labels in the layout of CamVid."""
    root, generator = tmp_path_factory.mktemp("camvid"), np.random.default_rng(0)
    raw = [label.raw_id for label in load_label_table("camvid").labels]
    for split, count in {"train": 4, "val": 2, "test": 2}.items():
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            image = generator.integers(0, 256, (72, 96, 3), np.uint8)
            mask = generator.choice(np.array(raw, np.uint8), (72, 96))
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "labels" / f"{number}.png")
    return root


def test_a_run_is_trained_once_and_tested_on_each_split(
    camvid: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers_accuracy, "Plan", partial(Plan, example_crop=(64, 64)))
    command = [*SMALL, "--data", camvid, "--weights", weights, "--output", tmp_path]
    command += ["--epochs", 1, "--seeds", 3, "--only", "smp_unet:plain"]
    assert call(peers_accuracy, *command) == 0
    assert "1 of 1 runs are finished" in capsys.readouterr().out
    trained = tmp_path / "smp_unet-plain/seed-3/training/metrics.jsonl"
    before = trained.stat().st_mtime_ns
    written = tmp_path / "rows.json"
    assert call(peers_accuracy, *command, "--split", "test", "--json", written) == 0
    (entry,) = json.loads(written.read_text())
    found = {key: entry[key] for key in ("name", "recipe", "seed", "split", "epochs")}
    assert [*found.values()] == ["smp_unet", "plain", 3, "test", 1]
    assert 0 <= entry["mean_iou"] < 0.2
    assert len(entry["classes"]) == 11
    assert {"minutes", "machine", "torch", "commit"} <= {*entry}
    assert trained.stat().st_mtime_ns == before
    capsys.readouterr()
    assert call(peers_accuracy, "optim.lr=1", *command) == 2
    assert "optim.lr was 0.0005, is 1.0" in capsys.readouterr().err


def finished(row: Row, seed: int, right: list[int]) -> Finished:
    """Return a run on three images of ten pixels of each of two classes: right ones by image."""
    by_image = np.array([[[r, r], [10, 10], [10, 10]] for r in right])
    names = [str(number) for number in range(3)]
    stored = Stored(Path(), by_image, names, ["a", "b"], "whole", "cityscapes", {})
    costs = {"seconds": 90.0, "parameters": 1, "multiply_adds": 1}
    return Finished(row, 7, FinishedRun(str(row), seed, stored, costs, {}))


def test_report_names_the_best_network_of_each_recipe() -> None:
    plain, worse = Row("smp_unet", "plain"), Row("smp_deeplabv3plus", "plain")
    right = {REFERENCE: ([9, 8, 7], [9, 9, 7]), plain: ([7, 7, 7], [7, 6, 7]), worse: ([1, 1, 1],)}
    found = [finished(row, k, r) for row, seeds in right.items() for k, r in enumerate(seeds)]
    # of a class: right pixels over true and predicted ones, less the right ones
    ours, unet = ([sum(r) / (60 - sum(r)) for r in right[row]] for row in (REFERENCE, plain))
    test = stats.ttest_ind(ours, unet, equal_var=False)
    interval = test.confidence_interval(0.95)
    text = report(found, "val")
    assert text.endswith(
        f"is {100 * (np.mean(ours) - np.mean(unet)):.2f} points ahead of the best of SMP with "
        f"recipe 'plain' (smp_unet; 95% interval {100 * interval.low:+.2f} to "
        f"{100 * interval.high:+.2f})."
    )
    line = next(line for line in text.splitlines() if line.startswith("smp_unet:plain"))
    assert f"{100 * (np.mean(unet) - np.mean(ours)):+.2f} ({-100 * interval.high:+.2f}" in line
    assert line.split()[1:3] == ["7", f"{np.mean(unet):.4f}"]
    assert "no comparison yet" in report(found[2:], "val")


@pytest.mark.parametrize("name", PEERS)
def test_networks_compute_what_those_of_smp_do(name: str, weights: Path) -> None:
    network = create_peer(name, 5, weights).eval()
    builder = {"smp_unet": smp.Unet, "smp_deeplabv3plus": smp.DeepLabV3Plus}[name]
    own = builder("tu-mobilenetv2_100", encoder_weights=None, classes=5).eval()
    own.encoder.load_state_dict(network.backbone.state_dict())
    own.decoder.load_state_dict(network.head.decoder.state_dict())
    own.segmentation_head.load_state_dict(network.head.classifier.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(network(images, upsample=False)["out"], own(images))
    file = load_file(weights)
    for key, tensor in network.backbone.model.state_dict().items():
        assert torch.equal(tensor, file[key]), key
    assert network.size_multiple == PEERS[name]


def test_encoder_needs_every_tensor(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    lacking = {key: tensor for key, tensor in state.items() if key != "blocks.3.0.conv_pw.weight"}
    for changed, name in (
        (lacking, "blocks.3.0.conv_pw.weight"),
        ({**state, "odd": torch.zeros(1)}, "odd"),
    ):
        save_file(changed, tmp_path / "odd.safetensors")
        with pytest.raises(InputError, match=name):
            create_peer("smp_unet", 5, tmp_path / "odd.safetensors")


def frozen_in_backbone(model: nn.Module) -> set[str]:
    """Return the names, as timm has them, of the tensors that are not trained."""
    names = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name.split(".", 2)[2] for name in names}


def test_recipes_are_kept(camvid: Path, weights: Path, tmp_path: Path) -> None:
    plan = Plan(str(camvid), str(weights), SMALL, 1, tmp_path, Process(0, 1, torch.device("cpu")))
    trainings = {row: prepare(plan, plan.run(row, 0)) for row in ROWS if "smp" in row.name}
    trainings[REFERENCE] = prepare(plan, plan.run(REFERENCE, 0))
    sizes = {
        str(row): tuple(next(iter(t.batches())).images.shape[2:]) for row, t in trainings.items()
    }
    assert sizes == {
        "smp_deeplabv3plus:plain": (160, 160),
        "smp_deeplabv3plus:ours": (64, 64),
        "smp_unet:plain": (160, 160),
        "smp_unet:ours": (64, 64),
        "strip_pooling_plus:ours": (65, 65),
    }
    expected = frozen_in_backbone(trainings[REFERENCE].model)
    assert {name.split(".")[0] for name in expected} == {"conv_stem", "bn1", "blocks"}
    for row, training in trainings.items():
        training.lock.release()
        rates = [group["lr"] for group in training.stepper.optimizer.param_groups]
        assert rates == ([2e-4] if row.plain else [5e-4, 2e-3])
        assert frozen_in_backbone(training.model) == (set() if row.plain else expected)


def test_epochs_fit_into_the_time_of_ours() -> None:
    unet = Row("smp_unet", "plain, equal time")
    speed = Speed("here", 10, {str(REFERENCE): [1.0, 2.0, 4.0], "smp_unet:plain": [0.7, 1.2, 2.8]})
    logs = np.log([0.7, 0.6, 0.7])
    reach = stats.sem(logs) * stats.t.ppf(0.975, 2)
    expected = np.exp([logs.mean(), logs.mean() - reach, logs.mean() + reach])
    np.testing.assert_allclose(speed.ratio(unet), expected)
    assert speed.equal_epochs(unet, 24) == int(24 / expected[0]) == 36


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--only", "smp_unet:plane"], "unknown row 'smp_unet:plane'"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--seeds", "1", "1"], "--seeds must be different numbers"),
        (["--only", "smp_unet:plain", "optim.lr=1"], "give settings before --only"),
        (["model.head=fcn"], "sets model.head itself"),
        (["optim.rate=1"], "optim.rate"),
        (["--json", "missing/rows.json"], "cannot write 'missing/rows.json'"),
        (["--weights", "missing.safetensors"], "'missing.safetensors' does not exist"),
        (["--speed", "--equal-time"], "not allowed with"),
    ],
)
def test_bad_input_trains_nothing(
    camvid: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: list[str],
    message: str,
) -> None:
    command = ["--data", camvid, "--weights", weights, "--output", tmp_path / "runs", *changed]
    assert call(peers_accuracy, *command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
