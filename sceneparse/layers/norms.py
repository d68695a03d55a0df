"""The normalisation of a network: batch norm as built, or its replacement."""

import math

from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import nn

MAX_GROUPS = 32
MIN_GROUP_CHANNELS = 8  # smaller groups carry no information on the 1x1 maps of pooling heads


def set_norms(model: nn.Module, norm: str) -> None:
    """Replace the batch norms of a model, in place. `norm`: one of NORMS."""
    replacement = NORMS[norm]
    if replacement is None:
        return
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, replacement(child))
        else:
            set_norms(child, norm)


def _group_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """Build a group norm (Wu and He, ECCV 2018) in place of a batch norm."""
    channels = norm.num_features
    groups = math.gcd(channels, min(MAX_GROUPS, max(channels // MIN_GROUP_CHANNELS, 1)))
    group_norm = nn.GroupNorm(groups, channels)
    if isinstance(norm, BatchNormAct2d):  # timm's norm has its activation inside
        return nn.Sequential(group_norm, norm.drop, norm.act)
    return group_norm


# What replaces each batch norm; None: nothing.
NORMS = {
    "batch": None,  # statistics of the images on one process
    "sync": convert_sync_batchnorm,  # statistics of the images on all processes, on GPUs
    "group": _group_norm,  # for small batches
    "frozen": None,  # the backbone's norms keep pretrained weights and statistics
}
