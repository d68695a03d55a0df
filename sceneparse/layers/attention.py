"""Attention blocks: each weights a map by a gate computed from the map, and keeps its shape.

Blocks of timm are used if they equal the official definition. Add your own to ATTENTION below.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

from sceneparse.layers.pooling import StripPooling

# Attention(channels) -> a module that keeps the shape (B, channels, H, W).
Attention = Callable[[int], nn.Module]


class TripletAttention(nn.Module):
    """Triplet attention: the mean of three gated maps (Misra et al., WACV 2021).

    The gates lie in the planes (C, W), (C, H) and (H, W).

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
        over_channels = self.height_width(x)
        return (over_height + over_width + over_channels) / 3


class _PlaneGate(nn.Module):
    """Gate (B, P, Q, R) by a map (B, 1, Q, R), computed from maximum and mean over P."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return x * self.norm(self.conv(pooled)).sigmoid()


class GatedChannelTransformation(nn.Module):
    """Gated channel transformation: channels compete by norm (Yang et al., CVPR 2020, l2 mode).

    It starts as the identity. `beta` learns without weight decay, as the authors train it.
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
        energy = wide.square().sum((2, 3), keepdim=True)  # (B, C, 1, 1)
        norm = (energy + self.epsilon).sqrt() * self.alpha
        mean_norm = (norm.square().mean(1, keepdim=True) + self.epsilon).sqrt()  # (B, 1, 1, 1)
        gate = 1 + torch.tanh(self.gamma * norm / mean_norm + self.beta)
        return x * gate.to(x.dtype)


class SimAM(nn.Module):
    """Gate each pixel by its distance from the channel's mean (SimAM, Yang et al., ICML 2021).

    It has no parameters. The gate of a map of one pixel is sigmoid(0.5).
    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    regularisation = 1e-4

    def forward(self, x: Tensor) -> Tensor:
        squared = (x - x.mean((2, 3), keepdim=True)).square()
        other_pixels = max(x.shape[2] * x.shape[3] - 1, 1)
        variance = squared.sum((2, 3), keepdim=True) / other_pixels  # (B, C, 1, 1)
        return x * (squared / (4 * (variance + self.regularisation)) + 0.5).sigmoid()


def _cbam(channels: int) -> nn.Module:
    """Build CBAM (Woo et al., ECCV 2018), with biases and momentum as published."""
    block: Any = CbamModule(channels, rd_channels=max(channels // 16, 1), mlp_bias=True)
    block.spatial.conv.bn.momentum = 0.01
    return block


def _coordinate(channels: int) -> nn.Module:
    """Build coordinate attention (Hou et al., CVPR 2021), reduction 32."""
    return CoordAttn(channels, rd_channels=max(8, channels // 32), bias=True)


def _squeeze_excitation(channels: int) -> nn.Module:
    """Build squeeze-and-excitation (Hu et al., CVPR 2018), reduction 16."""
    return SEModule(channels, rd_channels=max(channels // 16, 1))


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
