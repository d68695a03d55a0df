"""SPNet against outputs of the publishers' code, and training steps against a plain reference."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sceneparse
from sceneparse.cli import weights as weights_command
from sceneparse.cli.command import run
from sceneparse.data.labels import load_label_table
from sceneparse.errors import InputError
from sceneparse.layers.pooling import MixedPooling, StripPooling
from sceneparse.models.official_spnet import convert_official_spnet
from sceneparse.models.weights import load_strict, read_weights


def fill(name: str, shape: list[int]) -> Tensor:
    """Return weights by the rule of oracles/spnet_public.json."""
    n = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_mean"):
        n = 0.1 * n
    elif name.endswith("running_var"):
        n = 1 + 0.5 * np.abs(n)
    elif n.ndim == 4:
        n = n * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("bn3.weight"):
        n = 0.5 + 0.1 * n
    elif name.endswith("weight"):
        n = 1.2 + 0.1 * n
    else:
        n = 0.1 * n
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


def cases() -> list[dict[str, Any]]:
    path = Path(__file__).parents[2] / "shared" / "oracles" / "spnet_public.json"
    return json.loads(path.read_text())["cases"] if path.is_file() else []


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["name"])
def test_outputs_of_the_publishers_code(shared: Path, case: dict[str, Any]) -> None:
    public = {name: fill(name, shape) for name, shape in case["keys"].items()}
    model = sceneparse.create_segmentation_model(
        backbone=case["backbone"],
        num_classes=case["num_classes"],
        strip_pooling=case["spm"],
    )
    load_strict(model, convert_official_spnet(public), "the oracle")
    images = np.random.RandomState(case["seed"]).standard_normal(case["input"])
    assert model.aux_head is not None
    model.eval()
    with torch.no_grad():
        maps = model.backbone(torch.from_numpy(images.astype(np.float32)))
        got = {
            "main_logits_stride8": model.head(maps),
            "aux_logits_stride8": model.aux_head(maps),
            "c3_mean_abs": maps[2].abs().mean((0, 2, 3)),
            "c4_mean_abs": maps[3].abs().mean((0, 2, 3)),
        }
    arrays = np.load(shared / "oracles/spnet_public.npz")
    for name, value in got.items():
        expected = torch.from_numpy(arrays[f"{case['name']}/{name}"])
        difference = (value - expected).abs().max() / expected.abs().max()
        assert difference < 1e-4, f"{name}: {difference:.2e}"


def publish(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names of the publishers."""
    mixed = {
        "short.reduce": "conv1_1",
        "long.reduce": "conv1_2",
        "short.full": "conv2_0",
        "short.pooled.0": "conv2_1",
        "short.pooled.1": "conv2_2",
        "long.columns": "conv2_3",
        "long.rows": "conv2_4",
        "short.fuse": "conv2_5",
        "long.fuse": "conv2_6",
        "fuse": "conv3",
    }
    named = {
        f"head.mixed{i}.{o}.": f"head.strip_pool{i}.{t}." for i in "12" for o, t in mixed.items()
    }
    named |= {
        "head.reduce.": "head.trans_layer.",
        "head.project.": "head.score_layer.",
        "head.classifier.1.": "head.score_layer.4.",
        "aux_head.project.": "auxlayer.conv5.",
        "aux_head.classifier.1.": "auxlayer.conv5.4.",
        "backbone.": "pretrained.",
    }
    spm = {
        "rows.0": "conv1",
        "rows.1": "bn1",
        "columns.0": "conv2",
        "columns.1": "bn2",
        "fuse": "conv3",
    }
    result = {}
    for name, tensor in state.items():
        own = next(own for own in named if name.startswith(own))
        theirs = named[own] + name.removeprefix(own)
        for mine, other in spm.items():
            theirs = theirs.replace(f"attention.{mine}.", f"spm.{other}.")
        result[theirs] = tensor
    return result


def test_published_file_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = sceneparse.create_segmentation_model("strip_pooling", "resnet50", 11)
    source, target = tmp_path / "public.pth.tar", tmp_path / "ours.safetensors"
    public = {f"module.{name}": tensor for name, tensor in publish(model.state_dict()).items()}
    torch.save({"state_dict": public, "epoch": 3, "best_pred": np.float64(0.4)}, source)

    def convert(*options: str) -> int:
        arguments = [str(source), str(target), *options]
        with pytest.raises(SystemExit) as stop:
            run(weights_command.parser(), weights_command.main, arguments)
        return int(stop.value.code or 0)

    assert convert("--dataset", "cityscapes") == 2
    assert "cityscapes has 19 classes, the network 11; give --dataset camvid" in (
        capsys.readouterr().err
    )
    assert convert() == 0
    said = capsys.readouterr().out
    assert "backbone='resnet50', num_classes=11, attention='strip_pooling', aux=True" in said
    converted = read_weights(target)
    assert set(converted) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(converted[name], tensor), name
    assert convert() == 2
    assert "exists already" in capsys.readouterr().err
    target.unlink()
    assert convert("--dataset", "camvid") == 0
    assert sceneparse.load_model(target).classes == load_label_table("camvid").names


def test_what_is_not_a_published_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match=r"not a public SPNet checkpoint: fc\.weight"):
        convert_official_spnet({"pretrained.bn1.weight": torch.ones(1), "fc.weight": torch.ones(1)})
    with pytest.raises(InputError, match="expected named tensors, found list"):
        convert_official_spnet([])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="it is empty"):
        convert_official_spnet({})


def conv_norm(part: torch.nn.Sequential, x: Tensor, padding: tuple[int, int], relu: bool) -> Tensor:
    """Compute convolution and batch norm with the statistics of the batch, from the formulas."""
    x = F.conv2d(x, part[0].weight, padding=padding)  # type: ignore[arg-type]
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    weight, bias = (p.view(1, -1, 1, 1) for p in part[1].parameters())
    x = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
    return x.clamp(min=0) if relu else x


def plain_strip_pooling(module: StripPooling, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    rows = conv_norm(module.rows, x.sum(3, keepdim=True) / width, (1, 0), relu=False)
    columns = conv_norm(module.columns, x.sum(2, keepdim=True) / height, (0, 1), relu=False)
    gate = F.conv2d((rows + columns).clamp(min=0), module.fuse.weight, module.fuse.bias)
    return x / (1 + torch.exp(-gate))


def plain_mixed_pooling(module: MixedPooling, x: Tensor) -> Tensor:
    short, long = module.short, module.long
    assert short is not None
    assert long is not None
    s = conv_norm(short.reduce, x, (0, 0), relu=True)
    total = conv_norm(short.full, s, (1, 1), relu=False)
    for size, part in zip((20, 12), short.pooled, strict=True):
        pooled = conv_norm(part, F.adaptive_avg_pool2d(s, size), (1, 1), relu=False)  # type: ignore[arg-type]
        total = total + F.interpolate(pooled, s.shape[2:], mode="bilinear", align_corners=True)
    s = conv_norm(short.fuse, total.clamp(min=0), (1, 1), relu=True)
    l = conv_norm(long.reduce, x, (0, 0), relu=True)  # noqa: E741 - as in the paper
    q = conv_norm(long.rows, l.mean(3, keepdim=True), (1, 0), relu=False)
    r = conv_norm(long.columns, l.mean(2, keepdim=True), (0, 1), relu=False)
    l = conv_norm(long.fuse, (q + r).clamp(min=0), (1, 1), relu=True)  # noqa: E741
    return (x + conv_norm(module.fuse, torch.cat([s, l], 1), (0, 0), relu=False)).clamp(min=0)


@pytest.mark.parametrize(
    ("module", "plain"),
    [(StripPooling(8), plain_strip_pooling), (MixedPooling(16), plain_mixed_pooling)],
    ids=["strip_pooling", "mixed_pooling"],
)
def test_training_mode_equals_the_formulas(module: Any, plain: Any) -> None:
    torch.manual_seed(0)
    module = module.double().train()
    channels = 8 if isinstance(module, StripPooling) else 16
    x = torch.randn(2, channels, 23, 17, dtype=torch.float64, requires_grad=True)
    wanted = [x, *module.parameters()]
    weights = torch.randn(2, channels, 23, 17, dtype=torch.float64)
    expected, got = plain(module, x), module(x)
    torch.testing.assert_close(got, expected)
    ours = torch.autograd.grad((got * weights).sum(), wanted)
    theirs = torch.autograd.grad((expected * weights).sum(), wanted)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_batch_statistics_are_updated_once_per_step() -> None:
    model = sceneparse.create_segmentation_model("strip_pooling", "resnet18", 3, base_width=8)
    model.train()(torch.randn(2, 3, 33, 33))
    counters = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert len(counters) > 30
    assert {counter.item() for counter in counters} == {1}
