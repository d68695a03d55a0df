"""Attention blocks: each re-weights a map by what it gathers from it, and keeps its shape.

timm's where they equal the official definitions, with the settings that make them do so; ours for
the rest. Add your own to ATTENTION at the bottom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from sceneparse.layers.pooling import StripPooling


class TripletAttention(nn.Module):
    """Mean of three gates, over (C, H), (C, W) and (H, W) (Misra et al., WACV 2021).

    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self) -> None:
        super().__init__()
        self.channel_width = _PlaneGate()
        self.channel_height = _PlaneGate()
        self.height_width = _PlaneGate()

    def forward(self, x: Tensor) -> Tensor:
        # Each gate pools over the second axis: H, W and C in turn.
        over_height = self.channel_width(x.transpose(1, 2)).transpose(1, 2)
        over_width = self.channel_height(x.transpose(1, 3)).transpose(1, 3)
        total: Tensor = over_height + over_width + self.height_width(x)
        return total / 3


class _PlaneGate(nn.Module):
    """Gate the plane of the last two axes by maximum and mean over the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        gated: Tensor = x * self.norm(self.conv(pooled)).sigmoid()
        return gated


class GatedChannelTransformation(nn.Module):
    """Channels compete by their norms (Yang et al., CVPR 2020, l2 mode); the identity at first.

    `beta` learns without weight decay, as the authors train it.
    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    epsilon = 1e-5
    without_decay = ("beta",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # Sums of squares overflow in half precision.
        wide = x.double() if x.dtype == torch.float64 else x.float()
        norm = (wide.square().sum((2, 3), keepdim=True) + self.epsilon).sqrt() * self.alpha
        rival = (norm.square().mean(1, keepdim=True) + self.epsilon).sqrt()
        gate = 1 + torch.tanh(self.gamma * norm / rival + self.beta)
        return x * gate.to(x.dtype)


class SimAM(nn.Module):
    """Gate each pixel by how it stands out from its channel (Yang et al., ICML 2021).

    It has no parameters. A map of one pixel stands out from nothing: its gate is sigmoid(0.5).
    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    regularisation = 1e-4

    def forward(self, x: Tensor) -> Tensor:
        squared = (x - x.mean((2, 3), keepdim=True)).square()
        others = max(x.shape[2] * x.shape[3] - 1, 1)
        variance = squared.sum((2, 3), keepdim=True) / others
        return x * (squared / (4 * (variance + self.regularisation)) + 0.5).sigmoid()


def _cbam(channels: int) -> nn.Module:
    """Convolutional block attention (Woo et al., ECCV 2018), biases and momentum as published."""
    block: Any = CbamModule(channels, rd_channels=max(channels // 16, 1), mlp_bias=True)
    block.spatial.conv.bn.momentum = 0.01
    module: nn.Module = block
    return module


def _coordinate(channels: int) -> nn.Module:
    """Coordinate attention (Hou et al., CVPR 2021), reduction 32."""
    block: nn.Module = CoordAttn(channels, rd_channels=max(8, channels // 32), bias=True)
    return block


def _squeeze_excitation(channels: int) -> nn.Module:
    """Squeeze-and-excitation (Hu et al., CVPR 2018), reduction 16."""
    block: nn.Module = SEModule(channels, rd_channels=max(channels // 16, 1))
    return block


# Attention(channels) -> a module that keeps the shape (B, channels, H, W).
Attention = Callable[[int], nn.Module]

ATTENTION: dict[str, Attention] = {
    "none": nn.Identity,
    "strip_pooling": StripPooling,
    "se": _squeeze_excitation,
    "eca": EcaModule,
    "triplet": lambda _: TripletAttention(),
    "gct": GatedChannelTransformation,
    "cbam": _cbam,
    "coordinate": _coordinate,
    "simam": lambda _: SimAM(),
}
