"""Networks prepared for inference compute the same as the original networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sceneparse
from sceneparse.errors import InputError
from sceneparse.inference.prepare import prepare_for_inference
from sceneparse.layers.attention import ATTENTION
from sceneparse.models.heads import HEADS

NETWORKS: dict[str, dict[str, Any]] = {
    **{f"head {head}": {"head": head, "backbone": "resnet18"} for head in HEADS},
    **{
        f"attention {name}": {"head": "fcn", "attention": name, "backbone": "resnet18"}
        for name in ATTENTION
    },
    "bottlenecks": {"backbone": "resnet50"},
    "plain stem": {"backbone": "resnet18", "stem": "plain"},
    "group norms": {"backbone": "resnet18", "norm": "group"},
    "mobilenet": {"backbone": "mobilenetv2_035", "output_stride": 16},
    "efficientnet": {"backbone": "efficientnet_b0", "output_stride": 32},
    "convnext": {"backbone": "convnext_atto", "output_stride": 32},
    "regnet": {"backbone": "regnety_002", "output_stride": 32},
}


def trained(arguments: dict[str, Any]) -> nn.Module:
    """Return a small network with random batch statistics, as after training."""
    torch.manual_seed(0)
    small = {"base_width": 8} if arguments["backbone"].startswith("resnet") else {}
    model = sceneparse.create_segmentation_model(num_classes=5, width=16, **small, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_prepared_network_computes_the_same(name: str) -> None:
    model = trained(NETWORKS[name])
    images = torch.randn(2, 3, 65, 97)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ready = prepare_for_inference(model)
    with torch.inference_mode():
        expected, found = model(images)["out"], ready(images)["out"]
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    # the original network is unchanged
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in ready.modules())
    assert not any(isinstance(m, nn.Dropout2d | nn.Dropout) for m in ready.modules())
    assert not any(key.startswith("aux_head") for key in ready.state_dict())


def test_bfloat16_decides_alike() -> None:
    model = trained(NETWORKS["head strip_pooling"])
    images = torch.randn(1, 3, 65, 97)
    ready = prepare_for_inference(model, dtype="bfloat16")
    assert {p.dtype for p in ready.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        expected, found = model(images)["out"], ready(images)["out"]
    assert (found.argmax(1) == expected.argmax(1)).double().mean() > 0.95


@pytest.mark.slow
def test_compiled_network_computes_the_same() -> None:
    model = trained(NETWORKS["head strip_pooling"])
    ready = prepare_for_inference(model, compile=True)
    for size in ((65, 97), (64, 80)):
        images = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected, found = model(images)["out"], ready(images)["out"]
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


class Misleading(nn.Module):
    """A convolution and a norm that are neighbours, but run in the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))  # type: ignore[no-any-return]


def test_wrong_folding_is_noticed() -> None:
    model = Misleading().eval()
    model.norm.running_mean.fill_(3)  # type: ignore[union-attr,operator]
    with pytest.raises(RuntimeError, match="a norm was folded into a convolution"):
        prepare_for_inference(model)


def test_unknown_type_is_named() -> None:
    with pytest.raises(InputError, match="unknown dtype 'int4'; choose one of: float32"):
        prepare_for_inference(nn.Conv2d(3, 3, 1), dtype="int4")
