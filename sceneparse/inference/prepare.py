"""Prepare a trained network for fast inference: fold batch norms, choose type and layout, compile.

Folding a batch norm into the convolution before it saves a pass over the map (Jacob et al.,
CVPR 2018, section 3.2); the network computes the same, up to rounding.
"""

import copy
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sceneparse.errors import InputError
from sceneparse.inference.winograd import use_winograd
from sceneparse.models.segmentation import SegmentationModel, SegmentationNetwork
from sceneparse.runtime.devices import validate_compile

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
    """Return a copy of a network that computes the same faster and can no longer be trained.

    In the copy, batch norms are folded into convolutions, dropout and the auxiliary head are
    removed, and weights have `dtype` (a torch type, or "float32", "bfloat16", "float16"), in the
    layout channels_last except on mps. On a CPU in float32, wide 3x3 convolutions are computed by
    Winograd's algorithm (WinogradConv2d), which takes more memory. `compile`: torch.compile builds
    kernels at the first image of each size. The copy takes images of any type. Raises InputError
    for an unknown type, for exported networks, and for `compile` on mps.
    """
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise InputError(f"unknown dtype '{dtype}'; choose one of: {', '.join(DTYPES)}")
    if isinstance(model, SegmentationNetwork) and not isinstance(model, SegmentationModel):
        raise InputError("the type of an exported network is fixed; omit dtype and compile")
    device = next(model.parameters()).device
    if compile:
        validate_compile(device)
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(ready, SegmentationModel):
        ready.aux_head = None
    fold_batch_norms(ready)
    _remove_dropout(ready)
    ready.to(chosen)
    if channels_last and device.type != "mps":
        ready.to(memory_format=torch.channels_last)
        if device.type == "cpu" and chosen == torch.float32 and not compile:
            use_winograd(ready)
    ready.register_forward_pre_hook(partial(_cast_images, chosen))
    if compile:
        ready.compile(dynamic=False)
    return ready


def _cast_images(dtype: torch.dtype, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments[0].to(dtype), *arguments[1:]


def fold_batch_norms(model: nn.Module) -> None:
    """Fold, in place, every batch norm into the convolution before it.

    Candidates are convolutions and norms that are neighbours in a module. Running both networks
    verifies that they also follow each other in the forward pass; raises RuntimeError if not.
    """
    original = copy.deepcopy(model)
    for module in list(model.modules()):
        for (_, before), (name, norm) in pairwise(list(module.named_children())):
            conv = _last_layer(before)
            if not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d):
                continue
            if conv.out_channels == norm.num_features:
                folded = fuse_conv_bn_eval(conv, norm)
                conv.weight, conv.bias = folded.weight, folded.bias
                # Timm's norms contain their activation.
                activation = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
                setattr(module, name, activation)
    _verify(original, model)


def _last_layer(module: nn.Module) -> nn.Module:
    """Return the last layer of a sequence, such as a deep stem, or the module itself."""
    return _last_layer(module[-1]) if type(module) is nn.Sequential and len(module) else module


def _remove_dropout(model: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.modules.dropout._DropoutNd):
                setattr(module, name, nn.Identity())


def _verify(original: nn.Module, folded: nn.Module) -> None:
    """Raise RuntimeError if the folded network computes something else."""
    weight = next(original.parameters())
    generator = torch.Generator().manual_seed(0)
    # Some networks fail at smaller sizes.
    size = original.fitting_size(96, 96) if isinstance(original, SegmentationModel) else (96, 96)
    images = torch.randn(1, 3, *size, generator=generator).to(weight.device, weight.dtype)
    with torch.inference_mode():
        outputs = [network(images) for network in (original, folded)]
    before, after = (found["out"] if isinstance(found, dict) else found for found in outputs)
    difference = (before - after).abs().max()
    if not difference <= _TOLERANCE * before.abs().max().clamp(min=1e-6):
        raise RuntimeError(
            f"folding batch norms changed the network's output by {difference:.3g}: a norm was "
            "folded into a convolution that it does not follow"
        )
