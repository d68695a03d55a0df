"""Networks: backbones, heads, and the function that builds a segmentation model from names."""

from __future__ import annotations

from typing import Any

from torch import nn

from sceneparse.errors import InputError, unknown_name
from sceneparse.layers.attention import ATTENTION, Attention
from sceneparse.layers.norms import NORMS, set_norms
from sceneparse.layers.pooling import MixedPooling
from sceneparse.models.heads import HEADS, FCNHead
from sceneparse.models.resnet import RESNETS, Places, Stem, create_resnet
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.timm_backbone import TimmBackbone


def create_segmentation_model(  # noqa: PLR0913 - keyword-only settings of one builder
    head: str = "strip_pooling",
    backbone: str = "resnet50",
    num_classes: int = 19,
    *,
    strip_pooling: bool | None = None,
    attention: str | None = None,
    attention_places: Places = "spnet",
    aux: bool = True,
    output_stride: int = 8,
    width: int | None = None,
    norm: str = "batch",
    zero_init_residual: bool = False,
    stem: Stem = "deep",
    base_width: int = 64,
    multi_grid: tuple[int, ...] | None = (1, 2, 4),
) -> SegmentationModel:
    """Build a segmentation model, randomly initialised; the defaults are SPNet-50.

    head: a name of HEADS. backbone: resnet18/34/50/101/152, or any timm model name.
    attention: a name of ATTENTION, the blocks inside ResNets; None: strip_pooling in ResNets, none
    in timm models. attention_places: "spnet", the paper's places, or "all" blocks.
    strip_pooling: True is short for attention="strip_pooling", False for attention="none".
    aux: add the auxiliary head on stage 3 that training uses. output_stride: 8, 16 or 32.
    width: channels inside the head. norm: a name of NORMS. zero_init_residual: mixed pooling
    modules start as the identity, which learns faster from few images. stem, base_width,
    multi_grid: of ResNets. Raises InputError.
    """
    arguments = dict(locals())
    for kind, name, table in (("head", head, HEADS), ("norm", norm, NORMS)):
        if name not in table:
            raise unknown_name(kind, name, table)
    if num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {num_classes}")
    attention = _attention_name(strip_pooling, attention)
    features: Any
    if backbone in RESNETS:
        features = create_resnet(
            backbone,
            output_stride=output_stride,
            multi_grid=multi_grid,
            stem=stem,
            base_width=base_width,
            attention=_attention("strip_pooling" if attention is None else attention),
            attention_places=attention_places,
        )
    else:
        features = _timm_backbone(backbone, output_stride, attention)
    main_head = HEADS[head](
        features.channels, num_classes, width=width, output_stride=output_stride
    )
    aux_head: nn.Module | None = FCNHead(features.channels, num_classes, stage=2) if aux else None
    model = SegmentationModel(features, main_head, aux_head)
    model.meta["model"] = arguments
    if zero_init_residual:
        _start_as_identity(main_head)
    set_norms(model, norm)
    if norm == "frozen":
        model.freeze_norms()
    return model


def _timm_backbone(name: str, output_stride: int, attention: str | None) -> TimmBackbone:
    if attention not in (None, "none"):
        raise InputError(
            f"attention blocks go into ResNets, not into timm's '{name}'; "
            "set model.attention: none (the head still pools strips)"
        )
    return TimmBackbone(name, output_stride=output_stride)


def _start_as_identity(head: nn.Module) -> None:
    """Let residual modules begin without their branch (Goyal et al., arXiv 1706.02677)."""
    for module in head.modules():
        if isinstance(module, MixedPooling):
            norm = module.fuse[1]
            nn.init.zeros_(norm.weight)  # type: ignore[arg-type]


def _attention_name(strip_pooling: bool | None, attention: str | None) -> str | None:
    if strip_pooling is None:
        return attention
    if attention is not None:
        raise InputError("give strip_pooling or attention, not both")
    return "strip_pooling" if strip_pooling else "none"


def _attention(name: str) -> Attention | None:
    if name not in ATTENTION:
        raise unknown_name("attention", name, ATTENTION)
    return None if name == "none" else ATTENTION[name]
