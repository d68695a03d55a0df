"""Pooling modules of SPNet (Hou et al., Strip Pooling, CVPR 2020, arXiv 2003.13328).

Long, narrow windows gather context along one axis only: `StripPooling` gates a backbone's features
with it, `MixedPooling` joins it to pyramid pooling in the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.layers.blocks import ConvNormAct, resize


class StripPooling(nn.Module):
    """Strip pooling module (SPM), section 3.1: gates each pixel by its row's and column's means.

    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = ConvNormAct(channels, channels, (3, 1), activation=False)
        self.columns = ConvNormAct(channels, channels, (1, 3), activation=False)
        self.fuse = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows(x.mean(dim=3, keepdim=True))  # (B, C, H, 1)
        columns = self.columns(x.mean(dim=2, keepdim=True))  # (B, C, 1, W)
        gate = self.fuse(F.relu(rows + columns)).sigmoid()  # (B, C, H, W)
        gated: Tensor = x * gate
        return gated


class MixedPooling(nn.Module):
    """Mixed pooling module (MPM), section 3.2: pyramid pooling for short range dependencies, strip
    pooling for long range ones, added to the input.

    `grids` are the output sizes of the short range pools; a map smaller than a grid is spread over
    it, as adaptive pooling defines. Shape: (B, C, H, W) -> (B, C, H, W), C a multiple of 4.
    """  # noqa: D205 - the first sentence takes two lines

    def __init__(self, channels: int, grids: tuple[int, ...] = (20, 12)) -> None:
        super().__init__()
        inner = channels // 4
        self.grids = grids
        self.short_reduce = ConvNormAct(channels, inner, 1)
        self.short_full = ConvNormAct(inner, inner, 3, activation=False)
        self.short_pooled = nn.ModuleList(
            ConvNormAct(inner, inner, 3, activation=False) for _ in grids
        )
        self.short_fuse = ConvNormAct(inner, inner, 3)
        self.long_reduce = ConvNormAct(channels, inner, 1)
        self.long_columns = ConvNormAct(inner, inner, (1, 3), activation=False)
        self.long_rows = ConvNormAct(inner, inner, (3, 1), activation=False)
        self.long_fuse = ConvNormAct(inner, inner, 3)
        self.fuse = ConvNormAct(2 * inner, channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        short, long = self._short_range(x), self._long_range(x)  # (B, C/4, H, W) each
        return F.relu(x + self.fuse(torch.cat([short, long], dim=1)))

    def _short_range(self, x: Tensor) -> Tensor:
        x = self.short_reduce(x)
        total = self.short_full(x)
        for grid, conv in zip(self.grids, self.short_pooled, strict=True):
            total = total + resize(conv(F.adaptive_avg_pool2d(x, grid)), x.shape[-2:])
        fused: Tensor = self.short_fuse(F.relu(total))
        return fused

    def _long_range(self, x: Tensor) -> Tensor:
        x = self.long_reduce(x)
        columns = self.long_columns(x.mean(dim=2, keepdim=True))  # (B, C/4, 1, W)
        rows = self.long_rows(x.mean(dim=3, keepdim=True))  # (B, C/4, H, 1)
        fused: Tensor = self.long_fuse(F.relu(columns + rows))
        return fused
