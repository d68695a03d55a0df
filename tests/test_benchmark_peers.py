"""The benchmark of peers: whole rows, true counts and intervals, scores of one setting only."""

from __future__ import annotations

import json
from itertools import accumulate
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from benchmarks import peer_networks, peers
from benchmarks.peer_networks import all_peers, build, fitted_image
from benchmarks.rows import median_interval
from sceneparse.models.heads import HEADS
from tests.test_train_seg import call

ROOT = Path(__file__).parents[1]
ENTRY = {"name", "milliseconds", "milliseconds_low", "milliseconds_high", "gmac", "memory_mb"}
LRASPP = "torchvision:lraspp_mobilenet_v3_large"
FCN = "sceneparse:fcn:mobilenetv2_100"


def multiply_adds(network: nn.Module, images: Tensor) -> int:
    """Count those of convolutions from the shapes of their outputs."""
    found: list[int] = []

    def count(layer: Any, _: object, output: Tensor) -> None:
        found.append(output.numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(images)
    return sum(found)


def test_rows_are_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "rows.json", tmp_path / "rows.png"
    written = "--markdown", "--json", files[0], "--picture", files[1]
    assert call(peers, "--only", LRASPP, "--size", 64, 96, "--turns", 6, *written) == 0
    (row,) = json.loads(files[0].read_text())
    assert f"| {LRASPP} | 96x64 | {row['milliseconds']:.1f} |" in capsys.readouterr().out
    assert {*ENTRY, "parameters", "torch", "machine", "commit", "date"} <= {*row}
    assert row["name"] == LRASPP
    assert 0 < row["milliseconds_low"] <= row["milliseconds"] <= row["milliseconds_high"]
    assert (row["height"], row["width"]) == (64, 96)
    # The largest map is that of the stem, which one convolution reads and writes.
    assert 2 * 16 * 32 * 48 * 4 / 2**20 < row["memory_mb"] < 500
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19).eval()
    assert row["gmac"] == multiply_adds(network, torch.zeros(1, 3, 64, 96)) / 1e9
    assert row["parameters"] == sum(p.numel() for p in network.parameters())
    assert Image.open(files[1]).size[0] > 500


def test_every_head_and_toolkit_is_compared() -> None:
    names = {peer.name for peer in all_peers()}
    for backbone in ("resnet50", "mobilenetv2_100"):
        for head in HEADS:
            name = f"sceneparse:{head}:{backbone}"
            assert {name, f"{name}:prepared"} <= names
        assert {f"smp:{name}:{backbone}" for name in ("unet", "deeplabv3plus", "upernet")} <= names
    assert sum(name.startswith("torchvision:") for name in names) == 4
    assert "transformers:segformer_b0" in names
    assert {name for name in names if name.endswith((":onnx", ":int8"))} == {
        f"sceneparse:{name}:{form}"
        for name in ("strip_pooling:resnet50", "strip_pooling_plus:mobilenetv2_100")
        for form in ("onnx", "int8")
    }


# Of each toolkit, and of the networks that are enlarged or extended outside.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("smp:unet:mobilenetv2_100", (64, 96)),
        ("smp:deeplabv3plus:mobilenetv2_100", (48, 80)),
        ("transformers:segformer_b0", (40, 72)),
        ("sceneparse:strip_pooling_plus:mobilenetv2_100:prepared", (40, 72)),
    ],
)
def test_logits_have_the_size_of_the_picture(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    pytest.importorskip("transformers")
    (peer,) = (peer for peer in all_peers() if peer.name == name)
    network = build(peer, 5, tmp_path)
    image = fitted_image(network, (40, 72))
    assert image.shape == (1, 3, *size)
    with torch.inference_mode():
        found = network(image)
    logits = found["out"] if isinstance(found, dict) else found
    assert logits.shape == (1, 5, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("count", [*range(1, 22), 40])
def test_interval_holds_the_median_in_95_percent(count: int) -> None:
    low, high = median_interval(np.random.default_rng(0).permutation(count) + 1.0)
    # The median is below the k-th smallest of n values if fewer than k of n coins show heads.
    below = [*accumulate(comb(count, k) / 2**count for k in range(count + 1))]
    ranks = [k for k in range(1, count + 1) if below[k - 1] <= 0.025]
    expected = (max(ranks), count + 1 - max(ranks)) if ranks else (np.nan, np.nan)
    np.testing.assert_equal((low, high), expected)


def scores_file(path: Path, *entries: dict[str, Any]) -> Path:
    """Write entries of the study of decoders, with what is given instead of the usual."""
    usual = {"config": "fcn", "seed": 0, "split": "test", "mean_iou": 0.5}
    path.write_text(json.dumps([{**usual, **entry} for entry in entries]))
    return path


def test_scores_are_joined_with_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.setattr(peers, "memory_of", lambda found, *_: {peer.name: 0 for peer in found})
    study = scores_file(
        tmp_path / "study.json",
        *({"seed": seed, "mean_iou": score} for seed, score in enumerate((0.4, 0.5, 0.6))),
        {"split": "val", "seed": 7},
    )
    runs = scores_file(
        tmp_path / "runs.json",
        {"name": "smp_deeplabv3plus", "recipe": "ours", "epochs": 24, "mean_iou": 0.7},
        {"name": "smp_unet", "recipe": "plain", "epochs": 24},
        {"name": "smp_unet", "recipe": "ours, equal time", "epochs": 15},
    )
    files = tmp_path / "rows.json", tmp_path / "rows.svg"
    written = "--json", files[0], "--picture", files[1]
    assert call(peers, "--accuracy", study, runs, "--turns", 1, *written) == 0
    rows = {row["name"]: row for row in json.loads(files[0].read_text())}
    times = [row["milliseconds"] for row in rows.values()]
    assert times == sorted(times)
    peer = "smp:deeplabv3plus:mobilenetv2_100"
    assert rows[FCN]["gmac"] == rows[f"{FCN}:prepared"]["gmac"]
    assert rows.keys() == {FCN, f"{FCN}:prepared", peer}
    # Student's t for two degrees of freedom.
    reach = 4.3027 * 0.1 / 3**0.5
    assert rows[FCN]["mean_iou"] == pytest.approx(0.5)
    assert rows[FCN]["mean_iou_low"] == pytest.approx(0.5 - reach, abs=1e-5)
    assert rows[FCN]["milliseconds_low"] is None
    assert (rows[peer]["mean_iou"], rows[peer]["seeds"]) == (0.7, 1)
    # The trained size, and the next multiple of 16.
    assert [(row["height"], row["width"]) for row in (rows[FCN], rows[peer])] == [
        (180, 240),
        (192, 240),
    ]
    assert files[1].read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--turns", 0], "--turns must be at least 1"),
        (["--threads", 0], "--threads must be in 1.."),
        (["--size", 16, 512], "--size must be in 32..4096"),
        (["--only", "smp:*", "unet"], "no network is named 'unet'; names are smp:unet:"),
        (["--json", "missing/rows.json"], "'missing' is not a folder"),
        (["--picture", "rows.odd"], "its suffix must be one of"),
        (["--accuracy", "results/peers_accuracy.json", "--size", 64, 64], "remove --size"),
        (["--accuracy", "results/speed.json"], "holds no scores"),
        (["--accuracy", "results/camvid_recipe.json"], "'camvid_mobilenet' is neither"),
        (["--accuracy", "missing.json"], "missing.json"),
        (
            [
                "--accuracy",
                "results/camvid_decoder_study.json",
                "results/camvid_decoder_full_size.json",
            ],
            "images of 240x180, 24 epochs; results/camvid_decoder_full_size.json: images of 480x",
        ),
    ],
)
def test_bad_input_measures_nothing(
    changed: list[object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(peers, "measure", None)
    assert call(peers, *changed) == 2
    assert message in capsys.readouterr().err


def test_scores_that_differ_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = scores_file(tmp_path / "a.json", {"config": "mixed_fine"})
    run = {"name": "strip_pooling_plus", "recipe": "ours", "epochs": 24, "mean_iou": 0.6}
    second = scores_file(tmp_path / "b.json", run)
    assert call(peers, "--accuracy", first, second) == 2
    assert "mean IoU 0.6000, but 0.5000" in capsys.readouterr().err
    assert call(peers, "--accuracy", scores_file(first, {"split": "val"})) == 2
    assert "no test scores" in capsys.readouterr().err


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"segmentation_models_pytorch", "onnxscript"}
    monkeypatch.setattr(peer_networks, "find_spec", lambda name: None if name in missing else 1)
    monkeypatch.setattr(peers, "measure", lambda *_: pytest.fail("has begun"))
    for pattern, command in (
        ("smp:unet*", "pip install 'segmentation-models-pytorch==0.6.*'"),
        ("*:onnx", "pip install 'sceneparse[export]'"),
    ):
        assert call(peers, "--only", pattern, LRASPP) == 2
        assert command in capsys.readouterr().err
    peer_networks.check_installed([peer for peer in all_peers() if peer.name == LRASPP])
