"""Strip pooling as in research code: pooling modules, and strips resized to whole maps."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.layers.pooling import StripPooling, _LongRange
from sceneparse.models.segmentation import SegmentationModel


def in_plain_form(model: SegmentationModel) -> SegmentationModel:
    """Return a copy with the same weights and outputs that pools strips as in research code."""
    plain = copy.deepcopy(model).eval()
    for module in plain.modules():
        for name, child in module.named_children():
            if isinstance(child, StripPooling):
                setattr(module, name, _PlainStripPooling(child))
            elif isinstance(child, _LongRange):
                setattr(module, name, _PlainLongRange(child))
    return plain


class _PlainStripPooling(nn.Module):
    """Takes over the layers of a StripPooling."""

    def __init__(self, ours: StripPooling) -> None:
        super().__init__()
        self.rows, self.columns, self.fuse = ours.rows, ours.columns, ours.fuse
        self.pool_rows = nn.AdaptiveAvgPool2d((None, 1))
        self.pool_columns = nn.AdaptiveAvgPool2d((1, None))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows(self.pool_rows(x)).expand_as(x)
        columns = self.columns(self.pool_columns(x)).expand_as(x)
        gated: Tensor = x * self.fuse(F.relu(rows + columns)).sigmoid()
        return gated


class _PlainLongRange(nn.Module):
    """Takes over the layers of a mixed pooling module's strip half."""

    def __init__(self, ours: _LongRange) -> None:
        super().__init__()
        self.reduce, self.fuse = ours.reduce, ours.fuse
        self.rows, self.columns = ours.rows, ours.columns
        self.pool_rows = nn.AdaptiveAvgPool2d((None, 1))
        self.pool_columns = nn.AdaptiveAvgPool2d((1, None))

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        rows = _resize(self.rows(self.pool_rows(x)), x)
        columns = _resize(self.columns(self.pool_columns(x)), x)
        fused: Tensor = self.fuse(F.relu(columns + rows))
        return fused


def _resize(strips: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(strips, like.shape[-2:], mode="bilinear", align_corners=True)
