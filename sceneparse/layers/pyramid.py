"""A light feature pyramid: the maps of a backbone, resized to the strides that heads need.

Follows the simple feature pyramid of ViTDet (Li et al., ECCV 2022), without its 3x3 convolutions.
Maps of details are enlarged by a linear layer from each pixel to a square of pixels: it is the same
as a transposed convolution, and faster. Trained from scratch, its details are worth points of mean
IoU over one pattern per channel or bilinear resizing, for 4% of a small transformer's parameters.
"""

import copy
import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from sceneparse.layers.blocks import resize

# The first levels show details: enlarging them is learned, and they have fewer channels.
_DETAILED = 2


class Level(nn.Module):
    """One map at another stride: normalised, enlarged or pooled by a power of two, then resized.

    `channels` of the result. With `detailed`, enlarging is learned, and makes channels fewer in
    proportion; else it is bilinear.
    Shape: (B, in_channels, h, w), size -> (B, channels, *size)
    """

    def __init__(self, in_channels: int, stride: int, target: int, *, detailed: bool) -> None:
        super().__init__()
        octaves = round(math.log2(stride / target))
        factor = 2 ** abs(octaves)
        self.channels = in_channels
        self.norm = nn.LayerNorm(in_channels)
        self.rescale: nn.Module = nn.Identity()
        if octaves > 0 and detailed:
            self.channels = 8 * math.ceil(in_channels / factor / 8)
            self.rescale = nn.Sequential(
                nn.Conv2d(in_channels, self.channels * factor**2, 1), nn.PixelShuffle(factor)
            )
        elif octaves < 0:
            self.rescale = nn.MaxPool2d(factor, ceil_mode=True)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return resize(self.rescale(x), size)


class Pyramid(nn.Module):
    """Up to four maps of any strides -> maps of the strides `targets`, with `channels`.

    Each map is used, in order, for the strides that are closest to its own; `sources` has the
    index of the map of each level.
    Shape: maps (B, channels, h, w), image size (H, W) -> (B, self.channels[i], H / t_i, W / t_i),
    rounded up
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], targets: Sequence[int]
    ) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.sources = _closest(strides, targets)
        levels = [
            Level(channels[source], strides[source], target, detailed=level < _DETAILED)
            for level, (source, target) in enumerate(zip(self.sources, targets, strict=True))
        ]
        self.levels = nn.ModuleList(levels)
        self.channels: tuple[int, ...] = tuple(level.channels for level in levels)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        return [
            # Not -(-side // target): ONNX rounds the quotients of integers towards zero.
            level(maps[source], tuple((side + target - 1) // target for side in size))
            for level, source, target in zip(self.levels, self.sources, self.targets, strict=True)
        ]

    def freeze_unused(self, heads: Sequence[nn.Module]) -> None:
        """Freeze the levels that no head uses: processes wait for the gradients of all others."""
        with torch.inference_mode(False), torch.enable_grad():  # whatever mode the caller is in
            maps = [
                torch.empty(2, width, 64 // stride, 64 // stride, device="meta", requires_grad=True)
                for width, stride in zip(self.channels, self.targets, strict=True)
            ]
            for head in heads:
                copy.deepcopy(head).to("meta")(maps).sum().backward()
        for level, x in zip(self.levels, maps, strict=True):
            level.requires_grad_(x.grad is not None)


def _closest(strides: Sequence[int], targets: Sequence[int]) -> tuple[int, ...]:
    """Return which map serves each target: all maps in order, with the least change of strides."""
    orders = combinations_with_replacement(range(len(strides)), len(targets))

    def change(order: tuple[int, ...]) -> float:
        pairs = zip(order, targets, strict=True)
        return sum(abs(math.log2(strides[source] / target)) for source, target in pairs)

    return min((order for order in orders if len({*order}) == len(strides)), key=change)
