"""Make a trained network fast to run: batch norms folded, dropout gone, layout, type, compiled.

Folding a batch norm into the convolution before it saves a pass over the map (Jacob et al.,
CVPR 2018, section 3.2); the network computes the same, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sceneparse.errors import InputError
from sceneparse.models.segmentation import SegmentationModel, SegmentationNetwork

Network = TypeVar("Network", bound=nn.Module)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Outputs of the folded network may differ from the original's by this share of their range.
_TOLERANCE = 1e-3


def prepare_for_inference(
    model: Network,
    *,
    dtype: torch.dtype | str = torch.float32,
    channels_last: bool = True,
    compile: bool = False,
) -> Network:
    """Return a copy of a network that computes the same faster, and can no longer be trained.

    Batch norms are folded into convolutions, dropout and auxiliary head are gone, weights are of
    `dtype` (a torch type, or "float32", "bfloat16", "float16") and in channels_last layout. With
    `compile` torch.compile builds kernels at the first image of each size. Images of any type are
    taken. Raises InputError for a type it does not know, and for exported networks.
    """
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise InputError(f"unknown dtype '{dtype}'; choose one of: {', '.join(DTYPES)}")
    if isinstance(model, SegmentationNetwork) and not isinstance(model, SegmentationModel):
        raise InputError("an exported network is as fast as it was made; leave out dtype, compile")
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(ready, SegmentationModel):
        ready.aux_head = None
    fold_batch_norms(ready)
    _drop_dropout(ready)
    ready.to(chosen)
    if channels_last:
        ready.to(memory_format=torch.channels_last)
    ready.register_forward_pre_hook(_Cast(chosen))
    if compile:
        ready.compile(dynamic=False)
    return ready


class _Cast:
    """Gives a network its images in its own type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *others = inputs
        return images.to(self.dtype), *others


def fold_batch_norms(model: nn.Module) -> int:
    """Fold, in place, every batch norm that follows a convolution; return how many.

    A convolution and the norm after it stand side by side in their module. That this finds pairs
    which really follow each other in the forward pass is verified by running both networks.
    """
    original = copy.deepcopy(model)
    pairs = list(_pairs(model))
    for owner, conv_name, norm_owner, norm_name in pairs:
        conv, norm = getattr(owner, conv_name), getattr(norm_owner, norm_name)
        setattr(owner, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(norm_owner, norm_name, _what_remains(norm))
    _verify(original, model)
    return len(pairs)


# A module and a name in it, of a convolution and of the norm behind it.
Pair = tuple[nn.Module, str, nn.Module, str]


def _pairs(model: nn.Module) -> Iterator[Pair]:
    for module in model.modules():
        children = list(module.named_children())
        for (name, child), (next_name, following) in pairwise(children):
            if not isinstance(following, nn.BatchNorm2d):
                continue
            owner, conv_name = _last_of(module, name, child)
            conv = getattr(owner, conv_name)
            if isinstance(conv, nn.Conv2d) and conv.out_channels == following.num_features:
                yield owner, conv_name, module, next_name


def _last_of(owner: nn.Module, name: str, child: nn.Module) -> tuple[nn.Module, str]:
    """Look into a sequence, such as a deep stem, for its last layer."""
    if type(child) is nn.Sequential and len(child):
        return _last_of(child, str(len(child) - 1), child[-1])
    return owner, name


def _what_remains(norm: nn.BatchNorm2d) -> nn.Module:
    """Timm's norms have their activation inside."""
    if isinstance(norm, BatchNormAct2d):
        act: nn.Module = norm.act
        return act
    return nn.Identity()


def _drop_dropout(model: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.modules.dropout._DropoutNd):
                setattr(module, name, nn.Identity())


def _verify(original: nn.Module, folded: nn.Module) -> None:
    """Raise RuntimeError where the folded network computes something else."""
    weight = next(original.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, 64, 64, generator=generator).to(weight.device, weight.dtype)
    with torch.inference_mode():
        before, after = _output(original, images), _output(folded, images)
    difference = (before - after).abs().max()
    if not difference <= _TOLERANCE * before.abs().max().clamp(min=1e-6):
        raise RuntimeError(
            f"folding batch norms changed the network's output by {difference:.3g}: a norm was "
            "folded into a convolution that it does not follow"
        )


def _output(model: nn.Module, images: Tensor) -> Tensor:
    found = model(images)
    logits: Tensor = found["out"] if isinstance(found, dict) else found
    return logits
