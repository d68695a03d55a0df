"""Networks: backbones, heads, and the function that builds a segmentation model from names."""

from __future__ import annotations

from typing import Any

from torch import nn

from sceneparse.errors import InputError, unknown_name
from sceneparse.layers.pooling import StripPooling
from sceneparse.models.heads import HEADS, FCNHead
from sceneparse.models.resnet import RESNETS, Stem, create_resnet
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.timm_backbone import TimmBackbone


def create_segmentation_model(  # noqa: PLR0913 - keyword-only settings of one builder
    head: str = "strip_pooling",
    backbone: str = "resnet50",
    num_classes: int = 19,
    *,
    strip_pooling: bool | None = None,
    aux: bool = True,
    output_stride: int = 8,
    width: int | None = None,
    stem: Stem = "deep",
    base_width: int = 64,
    multi_grid: tuple[int, ...] | None = (1, 2, 4),
) -> SegmentationModel:
    """Build a segmentation model, randomly initialised; the defaults are SPNet-50.

    head: a name of HEADS. backbone: resnet18/34/50/101/152, or any timm model name.
    strip_pooling: strip pooling modules in the backbone; None: in ResNets, not in timm models.
    aux: add the auxiliary head on stage 3 that training uses. output_stride: 8, 16 or 32.
    width: channels inside the head. stem, base_width, multi_grid: of ResNets. Raises InputError.
    """
    if head not in HEADS:
        raise unknown_name("head", head, HEADS)
    if num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {num_classes}")
    features: Any
    if backbone in RESNETS:
        attention = StripPooling if strip_pooling is not False else None
        features = create_resnet(
            backbone,
            output_stride=output_stride,
            multi_grid=multi_grid,
            stem=stem,
            base_width=base_width,
            attention=attention,
        )
    elif strip_pooling:
        raise InputError(
            f"strip pooling modules go into ResNets, not into timm's '{backbone}'; "
            "set model.strip_pooling: false (the head still pools strips)"
        )
    else:
        features = TimmBackbone(backbone, output_stride=output_stride)
    aux_head: nn.Module | None = FCNHead(features.channels, num_classes, stage=2) if aux else None
    return SegmentationModel(
        features, HEADS[head](features.channels, num_classes, width=width), aux_head
    )
