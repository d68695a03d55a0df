"""Attention blocks against outputs of the publishers' code, and at odd sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sceneparse
from sceneparse.layers.attention import ATTENTION, GatedChannelTransformation
from sceneparse.layers.pooling import MixedPooling
from sceneparse.training.optim import create_optimizer

BLOCKS: dict[str, Callable[[int], nn.Module]] = {**ATTENTION, "mixed_pooling": MixedPooling}

# Our names of the publishers' modules, in the publishers' order.
ROLES = {
    "se": ["fc1", "fc2"],
    "eca": ["conv"],
    "triplet": ["channel_width", "channel_height", "height_width"],
    "gct": ["alpha", "gamma", "beta"],
    "cbam": ["channel.fc1", "channel.fc2", "spatial.conv"],
    "coordinate": ["conv1", "bn1", "conv_h", "conv_w"],
    "simam": [],
    "strip_pooling": ["rows", "columns", "fuse"],
    "mixed_pooling": [
        "short.reduce",
        "long.reduce",
        "short.full",
        "short.pooled.0",
        "short.pooled.1",
        "long.columns",
        "long.rows",
        "short.fuse",
        "long.fuse",
        "fuse",
    ],
}


def fill_by_rule(module: nn.Module, roles: list[str]) -> list[Tensor]:
    """Fill by the rule of oracles/attention.json; return tensors in the publishers' order."""
    state = module.state_dict()
    ordered = [n for role in roles for n in state if n == role or n.startswith(f"{role}.")]
    assert sorted(ordered) == sorted(state)
    names = [name for name in ordered if not name.endswith("num_batches_tracked")]
    norms = {name for name, child in module.named_modules() if isinstance(child, nn.BatchNorm2d)}
    for j, name in enumerate(names):
        value = state[name]
        a = torch.arange(value.numel(), dtype=torch.float64)
        owner, kind = name.rpartition(".")[::2]
        if owner not in norms:
            filled = 0.5 * torch.cos(1.7 * a + 0.9 * j) + 0.12
        else:
            filled = {
                "running_mean": 0.1 * torch.sin(a + j),
                "running_var": 1 + 0.5 * torch.cos(a + j) ** 2,
                "weight": 1 + 0.1 * torch.sin(a + j),
                "bias": 0.1 * torch.cos(a + j),
            }[kind]
        value.copy_(filled.view_as(value))
    return [state[name] for name in ordered]


@pytest.mark.parametrize("name", ROLES)
def test_blocks_equal_the_publishers(shared: Path, name: str) -> None:
    oracle = json.loads((shared / "oracles/attention.json").read_text())
    expected = oracle["blocks"][name]
    module = BLOCKS[name](16).double().eval()
    assert sum(p.numel() for p in module.parameters()) == expected["parameters"]
    filled = [tensor.numel() for tensor in fill_by_rule(module, ROLES[name])]
    assert filled == [torch.Size(shape).numel() for shape in expected["state_dict"].values()]
    if name == "cbam":  # the publishers stack maximum and mean, timm mean and maximum
        planes = module.get_submodule("spatial.conv.conv").weight
        planes.data.copy_(planes.data.flip(1))  # type: ignore[operator, union-attr]
    a = torch.arange(7680, dtype=torch.float64)
    x = (2 * torch.sin(0.01 * a) + torch.cos(0.0473 * a) + 0.5).view(2, 16, 12, 20)
    with torch.no_grad():
        out = module(x)
    assert list(out.shape) == expected["out_shape"]
    values = torch.tensor(expected["values"], dtype=torch.float64)
    torch.testing.assert_close(out.flatten()[oracle["flat_indices"]], values, rtol=0, atol=1e-9)
    assert out.sum().item() == pytest.approx(expected["sum"], rel=1e-12)
    assert out.abs().sum().item() == pytest.approx(expected["abs_sum"], rel=1e-12)


def test_every_block_is_compared() -> None:
    assert set(ROLES) == set(BLOCKS) - {"none"}


# Extra parameters for C channels, from the papers.
PARAMETERS: dict[str, Callable[[int], int]] = {
    "none": lambda c: 0,
    "strip_pooling": lambda c: 7 * c * c + 5 * c,
    "se": lambda c: 2 * c * c // 16 + c // 16 + c,
    "eca": lambda c: {64: 3, 128: 5, 256: 5, 512: 5}[c],
    "triplet": lambda c: 300,
    "gct": lambda c: 3 * c,
    "cbam": lambda c: 2 * c * c // 16 + c // 16 + c + 100,
    "coordinate": lambda c: 3 * c * max(8, c // 32) + 3 * max(8, c // 32) + 2 * c,
    "simam": lambda c: 0,
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("channels", [64, 128, 256, 512])
def test_parameters_by_formula(name: str, channels: int) -> None:
    block = ATTENTION[name](channels)
    assert sum(p.numel() for p in block.parameters()) == PARAMETERS[name](channels)


@pytest.mark.parametrize("name", ATTENTION)
def test_blocks_keep_awkward_shapes_and_learn(name: str) -> None:
    torch.manual_seed(0)
    block = ATTENTION[name](24)
    x = torch.randn(2, 24, 13, 21, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    out.square().mean().backward()
    assert x.grad is not None
    for parameter in block.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    one = block.eval()(torch.randn(1, 24, 1, 1))
    assert torch.isfinite(one).all()
    torch.export.export(block, (torch.randn(2, 24, 13, 21),))


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("places", ["spnet", "all"])
def test_blocks_sit_in_the_backbone(name: str, places: str) -> None:
    model = sceneparse.create_segmentation_model(
        "fcn",
        "resnet18",
        3,
        attention=name,
        attention_places=places,  # type: ignore[arg-type]
        base_width=16,
        aux=False,
    )
    kinds = [type(block.attention) for stage in range(1, 5) for block in _blocks(model, stage)]
    wanted = type(ATTENTION[name](16))
    expected = [False, True] * 3 + [True, True] if places == "spnet" else [True] * 8
    assert [kind is wanted for kind in kinds] == (expected if name != "none" else [True] * 8)
    model(torch.randn(2, 3, 65, 65))["out"].mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def _blocks(model: nn.Module, stage: int) -> list[nn.Module]:
    return list(model.get_submodule(f"backbone.layer{stage}").children())


def test_gct_is_the_identity_at_first_and_beta_has_no_weight_decay() -> None:
    block = GatedChannelTransformation(6)
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(block(x), x)
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 6, 1), "gate": block})
    optimizer = create_optimizer(model, lr=0.1, head_lr_factor=2.0, momentum=0.9, weight_decay=0.1)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found[id(block.beta)] == (0.2, 0.0)
    assert found[id(block.gamma)] == (0.2, 0.1)
    assert found[id(model["backbone"].weight)] == (0.1, 0.1)
