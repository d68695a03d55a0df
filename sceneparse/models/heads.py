"""Segmentation heads: the four maps of a backbone -> logits.

Every head is built from the channels of the maps and the number of classes, and is told the width
to use inside (None: its own default) and the backbone's output stride. Add yours to HEADS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sceneparse.errors import InputError
from sceneparse.layers.blocks import ConvNormAct, resize
from sceneparse.layers.pooling import AtrousPyramid, MixedPooling, PyramidPooling


class StripPoolingHead(nn.Module):
    """SPNet's head: reduction, two mixed pooling modules, projection, classifier (section 4.1).

    `width` is the number of channels of the mixed pooling modules; None: half the backbone's last.
    `short` and `long` switch the ranges of the modules, as in the ablation of the paper.
    Shape: maps, the last (B, channels[3], h, w) -> (B, num_classes, h, w)
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
        short: bool = True,
        long: bool = True,
    ) -> None:
        super().__init__()
        width = channels[3] // 2 if width is None else width
        if width % 4:
            raise InputError(f"model.width must be a multiple of 4 for strip_pooling, got {width}")
        self.reduce = ConvNormAct(channels[3], width, 1)
        self.mixed1 = MixedPooling(width, short=short, long=long)
        self.mixed2 = MixedPooling(width, short=short, long=long)
        self.project = ConvNormAct(width, width // 2, 3)
        self.classifier = _classifier(width // 2, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.mixed2(self.mixed1(self.reduce(maps[3])))
        logits: Tensor = self.classifier(self.project(x))
        return logits


class FCNHead(nn.Module):
    """One 3x3 convolution and a classifier (Long et al., CVPR 2015), on the map of one stage.

    `width` is the number of channels between the two; None: a quarter of the stage's.
    Shape: maps, that of `stage` (B, channels[stage], h, w) -> (B, num_classes, h, w)
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
        stage: int = 3,
    ) -> None:
        super().__init__()
        self.stage = stage
        width = channels[stage] // 4 if width is None else width
        self.project = ConvNormAct(channels[stage], width, 3)
        self.classifier = _classifier(width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.project(maps[self.stage]))
        return logits


class PSPHead(nn.Module):
    """Pyramid pooling, a 3x3 convolution and a classifier (PSPNet, Zhao et al., CVPR 2017).

    `width` is the number of channels of each pooled grid and of the convolution; None: a quarter
    of the backbone's last. Shape: maps, the last (B, channels[3], h, w) -> (B, num_classes, h, w)
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        width = channels[3] // 4 if width is None else width
        self.pool = PyramidPooling(channels[3], width)
        self.project = ConvNormAct(channels[3] + 4 * width, width, 3)
        self.classifier = _classifier(width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.project(self.pool(maps[3])))
        return logits


class DeepLabV3Head(nn.Module):
    """ASPP, a 3x3 convolution and a classifier (Chen et al., arXiv 1706.05587).

    The dilations are 12, 24, 36 at output stride 8, in proportion at others. `width` is the number
    of channels throughout; None: 256.
    Shape: maps, the last (B, channels[3], h, w) -> (B, num_classes, h, w)
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        width = 256 if width is None else width
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride))
        self.project = ConvNormAct(width, width, 3)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.project(self.pool(maps[3])))
        return logits


class DeepLabV3PlusHead(nn.Module):
    """ASPP joined with the first stage's details at stride 4 (Chen et al., ECCV 2018).

    `width` is the number of channels of ASPP and decoder; None: 256. The first stage is reduced to
    48 channels, as published, or fewer in proportion to `width`.
    Shape: maps, the first (B, channels[0], h, w) -> (B, num_classes, h, w)
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        width = 256 if width is None else width
        details = min(48, max(width * 48 // 256, 1))
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride))
        self.details = ConvNormAct(channels[0], details, 1)
        self.decode = nn.Sequential(
            ConvNormAct(width + details, width, 3), ConvNormAct(width, width, 3)
        )
        self.classifier = _classifier(width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        details = self.details(maps[0])
        context = resize(self.pool(maps[3]), details.shape[-2:])
        logits: Tensor = self.classifier(self.decode(torch.cat([context, details], dim=1)))
        return logits


class UPerHead(nn.Module):
    """A feature pyramid over all four maps, pyramid pooling at its top (Xiao et al., ECCV 2018).

    `width` is the number of channels throughout; None: a quarter of the backbone's last.
    Shape: maps, the first (B, channels[0], h, w) -> (B, num_classes, h, w)
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        width = channels[3] // 4 if width is None else width
        self.pool = PyramidPooling(channels[3], width)
        self.top = ConvNormAct(channels[3] + 4 * width, width, 3)
        self.laterals = nn.ModuleList(ConvNormAct(c, width, 1) for c in channels[:3])
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3) for _ in range(3))
        self.project = ConvNormAct(4 * width, width, 3)
        self.classifier = _classifier(width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        top = self.top(self.pool(maps[3]))
        levels, above = [top], top
        for stage in (2, 1, 0):
            lateral = self.laterals[stage](maps[stage])
            above = lateral + resize(above, lateral.shape[-2:])
            levels.append(self.smooth[stage](above))
        size = levels[-1].shape[-2:]
        pyramid = torch.cat([resize(level, size) for level in reversed(levels)], dim=1)
        logits: Tensor = self.classifier(self.project(pyramid))
        return logits


def _classifier(width: int, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))


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
