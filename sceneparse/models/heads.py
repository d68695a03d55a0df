"""Segmentation heads: the four maps of a backbone -> logits.

A head is any module with the constructor `Head(channels, num_classes, *, width=None,
output_stride=8)`: channels of the four maps, channels inside the head (None: its own default),
output stride of the backbone. Add your own to HEADS at the bottom.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sceneparse.errors import InputError
from sceneparse.layers.blocks import ConvNormAct, resize
from sceneparse.layers.pooling import AtrousPyramid, MixedPooling, PyramidPooling


class Head(nn.Module):
    """The base of the heads below: their features, then dropout and a 1x1 classifier.

    A head defines `build`, which creates its layers and returns the channels of its features, and,
    unless they are `project` after `pool` of the last map, `features`, which computes them.
    Shape: maps (B, channels[i], h_i, w_i) -> (B, num_classes, h, w), the size of the last map, or
    of the first in DeepLabV3PlusHead and UPerHead
    """

    dropout = 0.1
    pool: nn.Module
    project: nn.Module

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        in_channels = self.build(channels, width, output_stride)
        # The last layer to be created: the order decides which random numbers a layer gets.
        classifier = nn.Conv2d(in_channels, num_classes, 1)
        self.classifier = (
            nn.Sequential(nn.Dropout2d(self.dropout), classifier) if self.dropout else classifier
        )

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        raise NotImplementedError

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        return self.project(self.pool(maps[3]))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.features(maps))


class StripPoolingHead(Head):
    """SPNet's head: two mixed pooling modules (Hou et al., CVPR 2020, section 4.1).

    `width`: channels of the mixed pooling modules; None: half of the last map's.
    """

    short, long = True, True  # the ranges of mixed pooling

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = channels[3] // 2 if width is None else width
        if width % 4:
            raise InputError(f"model.width must be a multiple of 4 for strip_pooling, got {width}")
        self.reduce = ConvNormAct(channels[3], width, 1)
        self.mixed1 = MixedPooling(width, short=self.short, long=self.long)
        self.mixed2 = MixedPooling(width, short=self.short, long=self.long)
        self.project = ConvNormAct(width, width // 2, 3)
        return width // 2

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.reduce(maps[3])  # (B, width, h, w)
        return self.project(self.mixed2(self.mixed1(x)))  # (B, width / 2, h, w)


class ShortRangeHead(StripPoolingHead):
    """SPNet's head without strip pooling, of the ablation of the paper."""

    long = False


class LongRangeHead(StripPoolingHead):
    """SPNet's head without pyramid pooling, of the ablation of the paper."""

    short = False


class FCNHead(Head):
    """One 3x3 convolution and a classifier, on the last map (Long et al., CVPR 2015).

    `width`: channels between the two; None: a quarter of the map's.
    """

    map_index = 3

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        in_channels = channels[self.map_index]
        width = in_channels // 4 if width is None else width
        self.project = ConvNormAct(in_channels, width, 3)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        return self.project(maps[self.map_index])


class AuxiliaryHead(FCNHead):
    """The FCN head on the third map, whose loss is added in training (as in PSPNet)."""

    map_index = 2


class PSPHead(Head):
    """Pyramid pooling, a 3x3 convolution and a classifier (PSPNet, Zhao et al., CVPR 2017).

    `width`: channels of each grid and of the convolution; None: a quarter of the last map's.
    """

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = channels[3] // 4 if width is None else width
        self.pool = PyramidPooling(channels[3], width)
        self.project = ConvNormAct(channels[3] + 4 * width, width, 3)
        return width


def _rates(output_stride: int) -> tuple[int, ...]:
    """Return the dilations of ASPP: 12, 24, 36 at output stride 8, in proportion at others."""
    return tuple(rate * 8 // output_stride for rate in (12, 24, 36))


class DeepLabV3Head(Head):
    """ASPP, a 3x3 convolution and a classifier (Chen et al., arXiv 1706.05587).

    `width`: channels of both; None: 256.
    """

    dropout = 0.0

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = 256 if width is None else width
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride))
        self.project = ConvNormAct(width, width, 3)
        return width


class DeepLabV3PlusHead(Head):
    """ASPP joined with the details of the first map, at stride 4 (Chen et al., ECCV 2018).

    `width`: channels of ASPP and decoder; None: 256. The first map is reduced to 48 channels, as
    published, or fewer in proportion to `width`.
    """

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = 256 if width is None else width
        detail_width = min(48, max(width * 48 // 256, 1))
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride))
        self.details = ConvNormAct(channels[0], detail_width, 1)
        self.decode = nn.Sequential(
            ConvNormAct(width + detail_width, width, 3), ConvNormAct(width, width, 3)
        )
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        details = self.details(maps[0])
        context = resize(self.pool(maps[3]), details.shape[-2:])
        return self.decode(torch.cat([context, details], dim=1))


class UPerHead(Head):
    """A feature pyramid over all four maps, pyramid pooling at its top (Xiao et al., ECCV 2018).

    `width`: channels of all levels; None: a quarter of the last map's.
    """

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = channels[3] // 4 if width is None else width
        self.pool = PyramidPooling(channels[3], width)
        self.top = ConvNormAct(channels[3] + 4 * width, width, 3)
        self.laterals = nn.ModuleList(ConvNormAct(c, width, 1) for c in channels[:3])
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3) for _ in range(3))
        self.project = ConvNormAct(4 * width, width, 3)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        above = self.top(self.pool(maps[3]))
        levels = [above]
        for stage in (2, 1, 0):
            lateral = self.laterals[stage](maps[stage])
            above = lateral + resize(above, lateral.shape[-2:])
            levels.insert(0, self.smooth[stage](above))
        size = levels[0].shape[-2:]
        return self.project(torch.cat([resize(level, size) for level in levels], dim=1))


HEADS: dict[str, Callable[..., nn.Module]] = {
    "strip_pooling": StripPoolingHead,
    "strip_pooling_short": ShortRangeHead,
    "strip_pooling_long": LongRangeHead,
    "fcn": FCNHead,
    "psp": PSPHead,
    "deeplabv3": DeepLabV3Head,
    "deeplabv3plus": DeepLabV3PlusHead,
    "upernet": UPerHead,
}
