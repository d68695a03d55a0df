"""Segmentation heads: four backbone maps -> logits at the backbone's stride."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sceneparse.errors import InputError
from sceneparse.layers.blocks import ConvNormAct
from sceneparse.layers.pooling import MixedPooling


class StripPoolingHead(nn.Module):
    """SPNet's head: reduction, two mixed pooling modules, projection, classifier (section 4.1).

    `width` is the number of channels of the mixed pooling modules; None: half the backbone's last.
    Shape: maps, the last (B, channels[3], h, w) -> (B, num_classes, h, w)
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, *, width: int | None = None
    ) -> None:
        super().__init__()
        width = channels[3] // 2 if width is None else width
        if width % 4:
            raise InputError(f"model.width must be a multiple of 4 for strip_pooling, got {width}")
        self.reduce = ConvNormAct(channels[3], width, 1)
        self.mixed1 = MixedPooling(width)
        self.mixed2 = MixedPooling(width)
        self.project = ConvNormAct(width, width // 2, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width // 2, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.mixed2(self.mixed1(self.reduce(maps[3])))
        logits: Tensor = self.classifier(self.dropout(self.project(x)))
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
        stage: int = 3,
    ) -> None:
        super().__init__()
        self.stage = stage
        width = channels[stage] // 4 if width is None else width
        self.project = ConvNormAct(channels[stage], width, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.project(maps[self.stage])))
        return logits


HEADS: dict[str, type[StripPoolingHead] | type[FCNHead]] = {
    "strip_pooling": StripPoolingHead,
    "fcn": FCNHead,
}
