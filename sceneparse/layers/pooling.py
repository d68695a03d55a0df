"""Modules that gather context: those of SPNet and those it is compared with.

SPNet (Hou et al., Strip Pooling, CVPR 2020, arXiv 2003.13328) pools over long, narrow windows:
`StripPooling` gates a backbone's features by them, `MixedPooling` joins them to pyramid pooling in
the head. `PyramidPooling` is that of PSPNet, `AtrousPyramid` (ASPP) that of DeepLabV3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.layers.blocks import ConvNormAct, resize


def pool_to_grid(x: Tensor, grid: int) -> Tensor:
    """Average over a grid of cells (adaptive average pooling): (B, C, H, W) -> (B, C, grid, grid).

    Exported graphs would keep the cells of the size they were traced at, so there two matrices,
    made for each size, do the same.
    """
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, grid)
    rows, columns = (pooling_matrix(size, grid, x) for size in x.shape[-2:])
    pooled: Tensor = rows @ x @ columns.T
    return pooled


def pooling_matrix(size: int, grid: int, like: Tensor) -> Tensor:
    """Return the shares of `size` pixels in `grid` cells, which may overlap: (grid, size)."""
    cells = torch.arange(grid, device=like.device)[:, None]
    first, last = cells * size // grid, ((cells + 1) * size + grid - 1) // grid
    pixels = torch.arange(size, device=like.device)
    inside = (pixels >= first) & (pixels < last)
    return inside.to(like.dtype) / (last - first).to(like.dtype)


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Average each row and each column: (B, C, H, W) -> (B, C, H, 1), (B, C, 1, W)."""
    if torch.compiler.is_exporting() or x.is_contiguous():
        return x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True)
    # Of maps in channels_last layout PyTorch does the same 10 to 40 times as fast where channels
    # are the last axis.
    last = x.permute(0, 2, 3, 1)
    rows, columns = last.mean(dim=2, keepdim=True), last.mean(dim=1, keepdim=True)
    return rows.permute(0, 3, 1, 2), columns.permute(0, 3, 1, 2)


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
        row_means, column_means = strip_means(x)
        rows = self.rows(row_means)  # (B, C, H, 1)
        columns = self.columns(column_means)  # (B, C, 1, W)
        gate = self.fuse(F.relu(rows + columns)).sigmoid()  # (B, C, H, W)
        gated: Tensor = x * gate
        return gated


class MixedPooling(nn.Module):
    """Mixed pooling module (MPM), section 3.2: pyramid pooling for short range dependencies, strip
    pooling for long range ones, added to the input.

    `grids` are the output sizes of the short range pools; a map smaller than a grid is spread over
    it, as adaptive pooling defines. `short` and `long` switch the two ranges, as in the ablation
    of the paper. Shape: (B, C, H, W) -> (B, C, H, W), C a multiple of 4.
    """  # noqa: D205 - the first sentence takes two lines

    def __init__(
        self,
        channels: int,
        grids: Sequence[int] = (20, 12),
        *,
        short: bool = True,
        long: bool = True,
    ) -> None:
        super().__init__()
        self.short = _ShortRange(channels, grids) if short else None
        self.long = _LongRange(channels) if long else None
        ranges = [part for part in (self.short, self.long) if part is not None]
        self.fuse = ConvNormAct(len(ranges) * channels // 4, channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        ranges = [part(x) for part in (self.short, self.long) if part is not None]
        return F.relu(x + self.fuse(torch.cat(ranges, dim=1)))


class _ShortRange(nn.Module):
    """Pyramid pooling half of a mixed pooling module: (B, C, H, W) -> (B, C / 4, H, W)."""

    def __init__(self, channels: int, grids: Sequence[int]) -> None:
        super().__init__()
        inner = channels // 4
        self.grids = tuple(grids)
        self.reduce = ConvNormAct(channels, inner, 1)
        self.full = ConvNormAct(inner, inner, 3, activation=False)
        self.pooled = nn.ModuleList(ConvNormAct(inner, inner, 3, activation=False) for _ in grids)
        self.fuse = ConvNormAct(inner, inner, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        total = self.full(x)
        for grid, conv in zip(self.grids, self.pooled, strict=True):
            total = total + resize(conv(pool_to_grid(x, grid)), x.shape[-2:])
        fused: Tensor = self.fuse(F.relu(total))
        return fused


class _LongRange(nn.Module):
    """Strip pooling half of a mixed pooling module: (B, C, H, W) -> (B, C / 4, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.reduce = ConvNormAct(channels, inner, 1)
        self.columns = ConvNormAct(inner, inner, (1, 3), activation=False)
        self.rows = ConvNormAct(inner, inner, (3, 1), activation=False)
        self.fuse = ConvNormAct(inner, inner, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        row_means, column_means = strip_means(x)
        columns = self.columns(column_means)  # (B, C/4, 1, W)
        rows = self.rows(row_means)  # (B, C/4, H, 1)
        fused: Tensor = self.fuse(F.relu(columns + rows))
        return fused


class PyramidPooling(nn.Module):
    """Pool to grids of several sizes, convolve, resize and append to the input (PSPNet, Zhao et
    al., CVPR 2017, section 3.2).

    Shape: (B, C, H, W) -> (B, C + len(grids) * inner, H, W)
    """  # noqa: D205 - the first sentence takes two lines

    def __init__(self, channels: int, inner: int, grids: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.pooled = nn.ModuleList(ConvNormAct(channels, inner, 1) for _ in grids)

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [
            resize(conv(pool_to_grid(x, grid)), x.shape[-2:])
            for grid, conv in zip(self.grids, self.pooled, strict=True)
        ]
        return torch.cat([x, *pyramid], dim=1)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, 3x3 ones of several dilations and the
    image's mean, projected (ASPP, DeepLabV3, Chen et al., arXiv 1706.05587, section 3.3).

    Shape: (B, C, H, W) -> (B, width, H, W)
    """  # noqa: D205 - the first sentence takes two lines

    def __init__(self, channels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.point = ConvNormAct(channels, width, 1)
        self.dilated = nn.ModuleList(
            ConvNormAct(channels, width, 3, dilation=rate) for rate in rates
        )
        self.image = ConvNormAct(channels, width, 1)
        self.project = ConvNormAct((len(rates) + 2) * width, width, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        branches = [self.point(x), *(conv(x) for conv in self.dilated), image]
        projected: Tensor = self.dropout(self.project(torch.cat(branches, dim=1)))
        return projected
