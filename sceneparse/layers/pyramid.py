"""A light feature pyramid: the maps of a backbone, resized to the strides that heads need.

Follows the simple feature pyramid of ViTDet (Li et al., ECCV 2022). Enlarging is a 1x1 convolution
and a transposed one per channel, a sixth of the parameters of full transposed convolutions.
"""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

from torch import Tensor, nn

from sceneparse.layers.blocks import resize

# The first levels, which show details at many pixels, have fewer channels if they are enlarged.
_REDUCED = 2


class Level(nn.Module):
    """One map at another stride: normalised, enlarged or pooled by a power of two, then resized.

    `channels` of the result: with `reduced`, fewer in proportion if the map is enlarged.
    Shape: (B, in_channels, h, w), size -> (B, channels, *size)
    """

    def __init__(self, in_channels: int, stride: int, target: int, *, reduced: bool) -> None:
        super().__init__()
        octaves = round(math.log2(stride / target))
        factor = 2 ** abs(octaves)
        self.channels = width = in_channels
        self.norm = nn.LayerNorm(in_channels)
        self.reduce: nn.Module = nn.Identity()
        self.rescale: nn.Module = nn.Identity()
        if octaves > 0:
            if reduced:
                self.channels = width = 8 * math.ceil(in_channels / factor / 8)
                self.reduce = nn.Conv2d(in_channels, width, 1)
            self.rescale = nn.ConvTranspose2d(width, width, factor, stride=factor, groups=width)
        elif octaves < 0:
            self.rescale = nn.MaxPool2d(factor, ceil_mode=True)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return resize(self.rescale(self.reduce(x)), size)


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
            Level(channels[source], strides[source], target, reduced=level < _REDUCED)
            for level, (source, target) in enumerate(zip(self.sources, targets, strict=True))
        ]
        self.levels = nn.ModuleList(levels)
        self.channels: tuple[int, ...] = tuple(level.channels for level in levels)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        return [
            level(maps[source], tuple(-(-side // target) for side in size))
            for level, source, target in zip(self.levels, self.sources, self.targets, strict=True)
        ]


def _closest(strides: Sequence[int], targets: Sequence[int]) -> tuple[int, ...]:
    """Return which map serves each target: all maps in order, with the least change of strides."""
    orders = combinations_with_replacement(range(len(strides)), len(targets))

    def change(order: tuple[int, ...]) -> float:
        pairs = zip(order, targets, strict=True)
        return sum(abs(math.log2(strides[source] / target)) for source, target in pairs)

    return min((order for order in orders if len({*order}) == len(strides)), key=change)
