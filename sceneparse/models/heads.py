"""Segmentation heads: the four maps of a backbone -> logits.

A head is built by `Head(channels, num_classes, width=None, output_stride=8)`: the channels of the
four maps, the number of classes, the channels inside the head (None: its own default) and the
backbone's output stride. Add yours to HEADS; any module with this constructor will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sceneparse.errors import InputError
from sceneparse.layers.blocks import ConvNormAct, resize
from sceneparse.layers.pooling import AtrousPyramid, MixedPooling, PyramidPooling


class Head(nn.Module):
    """What the heads below share: `build` creates their layers, a 1x1 classifier follows.

    `build` returns the channels of what `features` computes from the maps. `options`: those of
    `build`. Shape: maps (B, channels[i], h_i, w_i) -> (B, num_classes, h, w), as the features
    """

    dropout = 0.1

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
        **options: Any,  # noqa: ANN401 - checked by `build`
    ) -> None:
        super().__init__()
        in_channels = self.build(channels, width, output_stride, **options)
        # After all other layers: the order decides which random numbers each of them gets.
        classifier = nn.Conv2d(in_channels, num_classes, 1)
        self.classifier = (
            nn.Sequential(nn.Dropout2d(self.dropout), classifier) if self.dropout else classifier
        )

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        raise NotImplementedError

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.features(maps))
        return logits


class StripPoolingHead(Head):
    """SPNet's head: reduction, two mixed pooling modules, projection, classifier (section 4.1).

    `width` is the number of channels of the mixed pooling modules; None: half the backbone's last.
    `short` and `long` switch the ranges of the modules, as in the ablation of the paper.
    Shape: maps, the last (B, channels[3], h, w) -> (B, num_classes, h, w)
    """

    def build(
        self,
        channels: Sequence[int],
        width: int | None,
        output_stride: int,
        *,
        short: bool = True,
        long: bool = True,
    ) -> int:
        width = channels[3] // 2 if width is None else width
        if width % 4:
            raise InputError(f"model.width must be a multiple of 4 for strip_pooling, got {width}")
        self.reduce = ConvNormAct(channels[3], width, 1)
        self.mixed1 = MixedPooling(width, short=short, long=long)
        self.mixed2 = MixedPooling(width, short=short, long=long)
        self.project = ConvNormAct(width, width // 2, 3)
        return width // 2

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.project(self.mixed2(self.mixed1(self.reduce(maps[3]))))
        return x


class FCNHead(Head):
    """One 3x3 convolution and a classifier (Long et al., CVPR 2015), on the map of one stage.

    `width` is the number of channels between the two; None: a quarter of the stage's.
    Shape: maps, that of `stage` (B, channels[stage], h, w) -> (B, num_classes, h, w)
    """

    def build(
        self, channels: Sequence[int], width: int | None, output_stride: int, *, stage: int = 3
    ) -> int:
        self.stage = stage
        width = channels[stage] // 4 if width is None else width
        self.project = ConvNormAct(channels[stage], width, 3)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.project(maps[self.stage])
        return x


class PSPHead(Head):
    """Pyramid pooling, a 3x3 convolution and a classifier (PSPNet, Zhao et al., CVPR 2017).

    `width` is the number of channels of each pooled grid and of the convolution; None: a quarter
    of the backbone's last. Shape: maps, the last (B, channels[3], h, w) -> (B, num_classes, h, w)
    """

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = channels[3] // 4 if width is None else width
        self.pool = PyramidPooling(channels[3], width)
        self.project = ConvNormAct(channels[3] + 4 * width, width, 3)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.project(self.pool(maps[3]))
        return x


class DeepLabV3Head(Head):
    """ASPP, a 3x3 convolution and a classifier (Chen et al., arXiv 1706.05587).

    The dilations are 12, 24, 36 at output stride 8, in proportion at others. `width` is the number
    of channels throughout; None: 256.
    Shape: maps, the last (B, channels[3], h, w) -> (B, num_classes, h, w)
    """

    dropout = 0.0

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = 256 if width is None else width
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride))
        self.project = ConvNormAct(width, width, 3)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.project(self.pool(maps[3]))
        return x


class DeepLabV3PlusHead(Head):
    """ASPP joined with the first stage's details at stride 4 (Chen et al., ECCV 2018).

    `width` is the number of channels of ASPP and decoder; None: 256. The first stage is reduced to
    48 channels, as published, or fewer in proportion to `width`.
    Shape: maps, the first (B, channels[0], h, w) -> (B, num_classes, h, w)
    """

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = 256 if width is None else width
        details = min(48, max(width * 48 // 256, 1))
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride))
        self.details = ConvNormAct(channels[0], details, 1)
        self.decode = nn.Sequential(
            ConvNormAct(width + details, width, 3), ConvNormAct(width, width, 3)
        )
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        details = self.details(maps[0])
        context = resize(self.pool(maps[3]), details.shape[-2:])
        x: Tensor = self.decode(torch.cat([context, details], dim=1))
        return x


class UPerHead(Head):
    """A feature pyramid over all four maps, pyramid pooling at its top (Xiao et al., ECCV 2018).

    `width` is the number of channels throughout; None: a quarter of the backbone's last.
    Shape: maps, the first (B, channels[0], h, w) -> (B, num_classes, h, w)
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
        top = self.top(self.pool(maps[3]))
        levels, above = [top], top
        for stage in (2, 1, 0):
            lateral = self.laterals[stage](maps[stage])
            above = lateral + resize(above, lateral.shape[-2:])
            levels.append(self.smooth[stage](above))
        size = levels[-1].shape[-2:]
        x: Tensor = self.project(
            torch.cat([resize(level, size) for level in reversed(levels)], dim=1)
        )
        return x


def _rates(output_stride: int) -> tuple[int, ...]:
    return tuple(rate * 8 // output_stride for rate in (12, 24, 36))


HEADS: dict[str, Callable[..., nn.Module]] = {
    "strip_pooling": StripPoolingHead,
    "strip_pooling_short": partial(StripPoolingHead, long=False),
    "strip_pooling_long": partial(StripPoolingHead, short=False),
    "fcn": FCNHead,
    "psp": PSPHead,
    "deeplabv3": DeepLabV3Head,
    "deeplabv3plus": DeepLabV3PlusHead,
    "upernet": UPerHead,
}
