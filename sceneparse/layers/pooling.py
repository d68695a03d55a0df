"""Context modules: those of SPNet, and those of PSPNet and DeepLabV3 that it is compared with.

SPNet (Hou et al., Strip Pooling, CVPR 2020, arXiv 2003.13328) pools over whole rows and columns:
`StripPooling` gates the features of the backbone, `MixedPooling` adds pyramid pooling in the head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.layers.blocks import ConvNormAct, conv3x3, resize


def pool_to_grid(x: Tensor, grid: int) -> Tensor:
    """Average over a grid of cells (adaptive average pooling): (B, C, H, W) -> (B, C, grid, grid).

    An exported graph would keep the cells of the size it was traced with, and mps takes only sizes
    that the grid divides (PyTorch issue 96056); there, two matrices do the same.
    """
    if not torch.compiler.is_exporting() and x.device.type != "mps":
        return F.adaptive_avg_pool2d(x, grid)
    rows, columns = (pooling_matrix(size, grid, x) for size in x.shape[-2:])
    # OpenCV's dnn multiplies maps by a matrix, but not a matrix by maps.
    return ((x @ columns.T).mT @ rows.T).mT


def pooling_matrix(size: int, grid: int, like: Tensor) -> Tensor:
    """Return the weights of `size` pixels in `grid` cells, which may overlap: (grid, size)."""
    cells = torch.arange(grid, device=like.device)[:, None]
    first, last = cells * size // grid, ((cells + 1) * size + grid - 1) // grid
    pixels = torch.arange(size, device=like.device)
    inside = (pixels >= first) & (pixels < last)
    return inside.to(like.dtype) / (last - first).to(like.dtype)


def strip_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Average each row and each column: (B, C, H, W) -> (B, C, H, 1), (B, C, 1, W)."""
    if torch.compiler.is_exporting() or x.is_contiguous():
        return x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True)
    # In channels_last layout, PyTorch is 10 to 40 times faster if channels are the last axis.
    channels_last = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    rows, columns = (channels_last.mean(dim=dim, keepdim=True) for dim in (2, 1))
    return rows.permute(0, 3, 1, 2), columns.permute(0, 3, 1, 2)


def add_strips(rows: Tensor, columns: Tensor) -> Tensor:
    """Add a column of means to each row of means: (B, C, H, 1), (B, C, 1, W) -> (B, C, H, W)."""
    if not torch.compiler.is_exporting():
        return rows + columns
    # OpenCV 5 fuses additions into the convolution before them and then ignores broadcasting.
    return rows - (-columns)


class StripPooling(nn.Module):
    """Strip pooling module (SPM), section 3.1: gates each pixel by the means of its row and column.

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
        gate = self.fuse(F.relu(add_strips(rows, columns))).sigmoid()  # (B, C, H, W)
        return x * gate


class MixedPooling(nn.Module):
    """Mixed pooling module (MPM), section 3.2: pyramid and strip pooling, added to the input.

    `short` switches pyramid pooling on, for short range dependencies; `long` strip pooling, for
    long range ones, as in the ablation of the paper.
    Shape: (B, C, H, W) -> (B, C, H, W), C a multiple of 4
    """

    def __init__(self, channels: int, *, short: bool = True, long: bool = True) -> None:
        super().__init__()
        self.short = _ShortRange(channels) if short else None
        self.long = _LongRange(channels) if long else None
        self.fuse = ConvNormAct((short + long) * channels // 4, channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        ranges = [part(x) for part in (self.short, self.long) if part is not None]
        return F.relu(x + self.fuse(torch.cat(ranges, dim=1)))


class _ShortRange(nn.Module):
    """The pyramid pooling half of a mixed pooling module: (B, C, H, W) -> (B, C / 4, H, W)."""

    grids = (20, 12)

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.reduce = ConvNormAct(channels, inner, 1)
        self.full = ConvNormAct(inner, inner, 3, activation=False)
        self.pooled = nn.ModuleList(
            ConvNormAct(inner, inner, 3, activation=False) for _ in self.grids
        )
        self.fuse = ConvNormAct(inner, inner, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)  # (B, C/4, H, W)
        total = self.full(x)
        for grid, conv in zip(self.grids, self.pooled, strict=True):
            total = total + resize(conv(pool_to_grid(x, grid)), x.shape[-2:])
        return self.fuse(F.relu(total))


class _LongRange(nn.Module):
    """The strip pooling half of a mixed pooling module: (B, C, H, W) -> (B, C / 4, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.reduce = ConvNormAct(channels, inner, 1)
        self.columns = ConvNormAct(inner, inner, (1, 3), activation=False)
        self.rows = ConvNormAct(inner, inner, (3, 1), activation=False)
        self.fuse = ConvNormAct(inner, inner, 3)

    def forward(self, x: Tensor) -> Tensor:
        row_means, column_means = strip_means(self.reduce(x))
        columns = self.columns(column_means)  # (B, C/4, 1, W)
        rows = self.rows(row_means)  # (B, C/4, H, 1)
        return self.fuse(F.relu(add_strips(rows, columns)))


class PyramidPooling(nn.Module):
    """Append means over grids of several sizes (PSPNet, Zhao et al., CVPR 2017, section 3.2).

    Shape: (B, C, H, W) -> (B, C + 4 * inner, H, W)
    """

    grids = (1, 2, 3, 6)

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(ConvNormAct(channels, inner, 1) for _ in self.grids)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [
            conv(pool_to_grid(x, grid)) for grid, conv in zip(self.grids, self.pooled, strict=True)
        ]
        size = x.shape[-2:]
        if torch.compiler.is_exporting():  # the same; OpenCV 5 enlarges maps of one pixel wrongly
            pooled[0] = pooled[0].expand(-1, -1, *size)
        return torch.cat([x, *(resize(maps, size) for maps in pooled)], dim=1)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP, DeepLabV3, Chen et al., arXiv 1706.05587, section 3.3).

    Joins a 1x1 convolution, 3x3 convolutions with several dilations and the mean of the image.
    `separable`: the 3x3 convolutions are separable ones, as in DeepLabV3+.
    Shape: (B, C, H, W) -> (B, width, H, W)
    """

    def __init__(
        self, channels: int, width: int, rates: Sequence[int], *, separable: bool = False
    ) -> None:
        super().__init__()
        self.point = ConvNormAct(channels, width, 1)
        self.dilated = nn.ModuleList(
            conv3x3(channels, width, separable=separable, dilation=rate) for rate in rates
        )
        self.image = ConvNormAct(channels, width, 1)
        self.project = ConvNormAct((len(rates) + 2) * width, width, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        branches = [self.point(x), *(conv(x) for conv in self.dilated), image]
        return self.dropout(self.project(torch.cat(branches, dim=1)))
