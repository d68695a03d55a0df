"""Which normalisation a network uses: batch norm as built, or what replaces it."""

from __future__ import annotations

import math
from collections.abc import Callable

from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

# batch: statistics of a process's images. sync: of all processes' images, on GPUs. group: group
# norm, for small batches. frozen: the backbone's norms keep pretrained weights and statistics.
NORMS = ("batch", "sync", "group", "frozen")

_GROUPS = 32
_SMALLEST_GROUP = 8


def set_norms(model: nn.Module, norm: str) -> None:
    """Replace the batch norms of a model, in place, by those `norm` stands for."""
    if norm == "sync":
        _replace(model, convert_sync_batchnorm)
    elif norm == "group":
        _replace(model, _group_norm)


def _replace(module: nn.Module, replacement: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, replacement(child))
        else:
            _replace(child, replacement)


def _group_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """Group norm (Wu and He, ECCV 2018): 32 groups, fewer where those would be under 8 channels.

    Small groups say nothing on the 1x1 maps of pooling heads.
    """
    channels = norm.num_features
    groups = math.gcd(channels, min(_GROUPS, max(channels // _SMALLEST_GROUP, 1)))
    group_norm = nn.GroupNorm(groups, channels)
    if isinstance(norm, BatchNormAct2d):  # timm's norm has its activation inside
        return nn.Sequential(group_norm, norm.drop, norm.act)
    return group_norm
