"""Winograd's algorithm computes the same as direct convolutions, where it is faster."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sceneparse
from sceneparse.inference.prepare import prepare_for_inference
from sceneparse.inference.winograd import WinogradConv2d, use_winograd

# In channels, out channels, batch, height, width, dilation: whole tiles, cut ones, several parts.
CASES = [
    (64, 64, 1, 4, 4, 1),
    (64, 96, 2, 33, 18, 1),
    (96, 64, 1, 90, 95, 1),
    (64, 64, 3, 8, 24, 2),
    (64, 80, 1, 45, 60, 4),
    (64, 64, 2, 64, 50, 16),
]


class Standardized(nn.Conv2d):
    """A convolution that does something else with its weight."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_convolution_in_float64(case: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    channels, out_channels, batch, height, width, dilation = case
    conv = nn.Conv2d(channels, out_channels, 3, padding=dilation, dilation=dilation, bias=bias)
    images = torch.randn(batch, channels, height, width)
    conv.requires_grad_(False)
    with torch.inference_mode():
        found = WinogradConv2d(conv)(images)
        expected = conv.double()(images.double())
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(found.double(), expected)  # not computed by the direct convolution
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_maps_that_fill_few_tiles_are_convolved_directly() -> None:
    conv = nn.Conv2d(64, 64, 3, padding=16, dilation=16).requires_grad_(False)
    images = torch.randn(1, 64, 13, 17)
    with torch.inference_mode():
        assert torch.equal(WinogradConv2d(conv)(images), conv(images))


def test_gradients_and_16_bits_are_computed_directly() -> None:
    conv = nn.Conv2d(64, 96, 3, padding=1).requires_grad_(False)
    winograd, images = WinogradConv2d(conv), torch.randn(2, 64, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(winograd(images), conv(images))
    half, maps = copy.deepcopy(winograd).bfloat16(), images.bfloat16()
    assert torch.equal(half(maps), copy.deepcopy(conv).bfloat16()(maps))
    maps = images.clone().requires_grad_()
    found, expected = (torch.autograd.grad(one(maps).sum(), maps)[0] for one in (winograd, conv))
    assert torch.equal(found, expected)
    for few in (images[0], images[:0]):
        assert torch.equal(winograd(few), conv(few))


def test_moved_weights_are_transformed_only_for_processors() -> None:
    winograd = WinogradConv2d(nn.Conv2d(64, 96, 3, padding=1).requires_grad_(False))
    images = torch.randn(1, 64, 24, 24)
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(winograd).to("meta")(images.to("meta"))
    assert list(counter.get_flop_counts()["Global"]) == [torch.ops.aten.convolution]
    assert copy.deepcopy(winograd).half().kernels.numel() == 0
    winograd.half().double()
    expected = nn.Conv2d.forward(winograd, images.double())
    assert (winograd(images.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_loaded_weights_are_transformed() -> None:
    conv, other = (nn.Conv2d(64, 96, 3, padding=1).requires_grad_(False) for _ in range(2))
    winograd, images = WinogradConv2d(conv), torch.randn(1, 64, 24, 24)
    expected = other(images)
    winograd.load_state_dict(other.state_dict())
    assert (winograd(images) - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Conv2d(64, 128, 1),
        nn.Conv2d(64, 128, 3),
        nn.Conv2d(64, 128, 3, padding=1, stride=2),
        nn.Conv2d(64, 128, 3, padding=1, groups=2),
        nn.Conv2d(64, 128, 3, padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(64, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 128, 3, padding="same"),
        nn.ConvTranspose2d(64, 128, 3, padding=1),
        Standardized(64, 128, 3, padding=1),
    ],
    ids=str,
)
def test_other_convolutions_stay(conv: nn.Module) -> None:
    model = nn.Sequential(conv)
    use_winograd(model)
    assert model[0] is conv


def test_networks_prepared_in_float32_use_it() -> None:
    model = sceneparse.create_segmentation_model(
        "fcn", "resnet18", num_classes=5, base_width=48, multi_grid=None
    ).eval()
    images = torch.randn(1, 3, 97, 129)
    ready = prepare_for_inference(model)
    assert sum(isinstance(module, WinogradConv2d) for module in ready.modules()) > 5
    with torch.inference_mode():
        expected, found = model(images)["out"], ready(images)["out"]
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "settings", [{"dtype": "bfloat16"}, {"channels_last": False}, {"compile": True}], ids=str
)
def test_networks_prepared_otherwise_do_without(settings: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 128, 3, padding=1))
    ready = prepare_for_inference(model, **settings)
    assert not any(isinstance(module, WinogradConv2d) for module in ready.modules())
    assert isinstance(prepare_for_inference(model)[1], WinogradConv2d)
