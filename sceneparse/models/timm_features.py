"""How timm builds the feature maps of a model: which maps, with which options, at which sizes.

What sizes of images a model takes is found by trying: it runs on shapes alone (the meta device) at
sizes that are odd multiples of 1, 2, 4 ... 64, of its strides and of its own input size, until one
works.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from sceneparse.errors import InputError, reason_of
from sceneparse.models.origin import validate_tag

Options = Mapping[str, Any]

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# Options of timm, tried in this order, that free a model of its fixed size and change no weight.
_SIZE_OPTIONS: tuple[Options, ...] = ({}, {"strict_img_size": False}, {"dynamic_img_size": True})
_USUAL_INPUT = (3, 224, 224)
# The sides that are tried are at least this long, so that no map becomes too small.
_TRIED = (193, 321)


@dataclass(frozen=True)
class Needs:
    """What a model needs: the options to build its features with, and the sizes of its images.

    `joined`: its maps are fewer than four, or of other strides, so that a pyramid has to make four.
    """

    options: Options
    joined: bool
    multiple: int
    smallest: int
    largest: int | None = None


def create_features(name: str, options: Options) -> nn.Module:
    """Create a timm model that returns its feature maps, randomly initialised."""
    return timm.create_model(name, features_only=True, **options)


def read_maps(features: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the last four maps of a model, or all if they are fewer, as (B, C, H, W)."""
    maps = features(images)[-4:]
    # Some transformers of timm return (B, H, W, C); their output_fmt is then NHWC.
    if getattr(features, "output_fmt", "NCHW") == "NHWC":
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps]
    return list(maps)


@cache
def find_needs(name: str, output_stride: int) -> Needs:
    """Return what a backbone needs; raises InputError if it cannot be one."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5] or get_close_matches(name, timm.list_models(), 5)
        raise InputError(
            f"unknown backbone '{name}': neither a ResNet of ours (resnet18/34/50/101/152) "
            f"nor a timm model; similar names: {', '.join(near) or 'see timm.list_models()'}"
        )
    validate_tag(name)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        options = _own_maps(name, output_stride)
        if options is None:
            return _needs_to_join(name)
        return _try_sizes(name, options, (output_stride,))


def _own_maps(name: str, output_stride: int) -> Options | None:
    """Return the options for four maps with an output stride; None if a pyramid has to make them.

    Raises InputError if the model has four maps, but only with another output stride.
    """
    possible, reason = list[int](), "it has no maps"
    joined = False
    for asked in (output_stride, 32, 16, 8):
        # Not all models know the argument; without it nearly all have 32.
        options = {} if asked == 32 else {"output_stride": asked}
        try:
            info: Any = create_features(name, options).feature_info
        except Exception as error:  # a model fails with an error of any type
            reason = reason_of(error) if asked == 32 else reason
            continue
        joined |= asked == 32
        stride = info.reduction()[-1]
        if len(info.channels()) < 4 or stride != asked:
            continue
        if asked == output_stride:
            return options
        possible += [asked]
    if not possible and joined:
        return None
    remedy = f"set model.output_stride: {' or '.join(map(str, possible))}"
    if not possible:
        remedy = f"nor another one ({reason}); choose another backbone"
    raise InputError(f"backbone '{name}' cannot have output stride {output_stride}; {remedy}")


@cache
def _needs_to_join(name: str) -> Needs:
    """Return what a model needs so that a pyramid can make four maps of those that it has.

    The pyramid starts from timm's choice if it has four; of longer lists, such as the blocks of a
    vision transformer, from four evenly spaced ones.
    """
    info: Any = create_features(name, {}).feature_info
    options: Options = {}
    blocks = len(info.info)
    if len(info.channels()) < 4 <= blocks:
        options = {"out_indices": tuple(blocks * quarter // 4 - 1 for quarter in (1, 2, 3, 4))}
        info = create_features(name, options).feature_info
    return _try_sizes(name, options, info.reduction()[-4:], joined=True)


def _try_sizes(
    name: str, options: Options, strides: Sequence[int], *, joined: bool = False
) -> Needs:
    """Return the options and the sizes that a model runs with; raises InputError if none.

    strides: those that its last maps must have. joined: the maps must cover the image.
    """
    reason = ""
    for size_options in _SIZE_OPTIONS:
        built = {**options, **size_options}
        try:
            features = create_features(name, built).eval()
        except TypeError:  # the model does not know the option
            continue
        for multiple in sorted({*_MULTIPLES, *strides}):
            reason = _try_multiple(features, multiple, strides, joined)
            if not reason:
                return Needs(built, joined, multiple, _smallest(features, multiple))
    features = create_features(name, options).eval()
    own = (timm.get_pretrained_cfg_value(name, "input_size") or _USUAL_INPUT)[1]
    if not _try_multiple(features, own, strides, joined):
        return Needs(options, joined, own, own)
    if not _try_size(features, own, own, strides):
        return Needs(options, joined, own, own, own)
    raise InputError(
        f"backbone '{name}' runs at none of the sizes that were tried ({reason}); "
        "choose another backbone"
    )


def _try_multiple(features: nn.Module, multiple: int, strides: Sequence[int], joined: bool) -> str:
    """Return why a model cannot run at odd multiples of a number; "" if it can."""
    short, long = (multiple * (math.ceil(side / multiple) // 2 * 2 + 1) for side in _TRIED)
    long += 2 * multiple * (long == short)
    return _try_size(features, short, long, strides, joined) or _try_size(
        features, long, short, strides, joined
    )


def _smallest(features: nn.Module, multiple: int) -> int:
    """Return the smallest side that a model runs at, of those that a number divides."""
    sides = range(multiple, _TRIED[1], multiple)
    if not _try_size(features, multiple, multiple):
        return multiple
    return sides[bisect_left(sides, True, key=lambda side: not _try_size(features, side, side))]


def _try_size(
    features: nn.Module, height: int, width: int, strides: Sequence[int] = (), covered: bool = False
) -> str:
    """Return why a model cannot run at a size, with strides if given; "" if it can."""
    info: Any = features.feature_info
    try:
        with torch.no_grad():
            maps = read_maps(features, torch.empty(1, 3, height, width))
    except Exception as error:  # a model that does not fit fails with an error of any type
        return reason_of(error)
    found = [x.shape[1] for x in maps]
    if found != info.channels()[-4:]:
        return f"its maps have {found} channels, not {info.channels()[-4:]}"
    if not all(x.numel() for x in maps):
        return "its maps are empty"
    for x, expected in zip(maps[-len(strides) :], strides, strict=bool(strides)):
        # Convolutions without padding and roundings shrink maps by less than a factor of two.
        stride = max(height, width) / max(x.shape[-2:])
        if round(math.log2(stride)) != round(math.log2(expected)):
            return f"a map has a stride of {stride:.0f}, not {expected}"
        if covered and [*x.shape[-2:]] != [-(-side // expected) for side in (height, width)]:
            return f"its maps of stride {expected} do not cover the image"
    return ""
