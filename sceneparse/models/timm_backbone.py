"""Any timm model with four feature maps as a backbone.

What sizes of images a model takes is found by trying: it runs on shapes alone (the meta device) at
sizes that are odd multiples of 1, 2, 4 ... 64 and of its own input size, until one works.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn

from sceneparse.errors import InputError, reason_of

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# Options of timm, tried in this order, that free a model of its fixed size and change no weight.
_OPTIONS: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False})
_USUAL_INPUT = (3, 224, 224)
# The sides that are tried are at least this long, so that no map becomes too small.
_TRIED = (193, 321)


class TimmBackbone(nn.Module):
    """The last four feature maps of a timm model. Raises InputError if it has fewer.

    `strides`: input pixels per pixel of each map. `size_multiple`: heights and widths must be
    multiples of it. `min_size`, `max_size`: the shortest and longest side, None if there is no
    limit.
    Shape: (B, 3, H, W) -> four maps (B, channels[i], H_i, W_i)
    """

    def __init__(self, name: str, *, output_stride: int) -> None:
        super().__init__()
        needs = _find_needs(name, output_stride)
        self.features = _create_features(name, output_stride, needs.options)
        info: Any = self.features.feature_info
        self.name = name
        self.channels: tuple[int, ...] = tuple(info.channels()[-4:])
        self.strides: tuple[int, ...] = tuple(info.reduction()[-4:])
        self.output_stride = output_stride
        self.size_multiple = needs.multiple
        self.min_size, self.max_size = needs.smallest, needs.largest
        self._stage_ends: list[str] = info.module_name()[-4:]

    def forward(self, x: Tensor) -> list[Tensor]:
        return _four_maps(self.features, x)

    def first_stages(self, count: int) -> list[nn.Module]:
        """Return the modules that compute the first `count` maps, in timm's order."""
        owners = [(n, m) for n, m in self.features.named_modules() if _owns_tensors(m)]
        # timm's wrapper for features flattens nested names: stages.0 becomes stages_0.
        end = self._stage_ends[count - 1]
        ends = (f"{end}.", f"{end.replace('.', '_')}.")
        inside = [i for i, (name, _) in enumerate(owners) if f"{name}.".startswith(ends)]
        if not inside:
            raise InputError(f"backbone '{self.name}' has no stages to freeze; set model.freeze: 0")
        return [module for _, module in owners[: inside[-1] + 1]]


def _owns_tensors(module: nn.Module) -> bool:
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


def _four_maps(features: nn.Module, images: Tensor) -> list[Tensor]:
    maps = features(images)[-4:]
    # Some transformers of timm return (B, H, W, C); their output_fmt is then NHWC.
    if getattr(features, "output_fmt", "NCHW") == "NHWC":
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps]
    return list(maps)


@dataclass(frozen=True)
class _Needs:
    """What a model needs: the options to build it with, and the sizes of its images."""

    options: Mapping[str, Any]
    multiple: int
    smallest: int
    largest: int | None = None


@cache
def _find_needs(name: str, output_stride: int) -> _Needs:
    """Return what a backbone needs; raises InputError if it cannot be one."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5] or get_close_matches(name, timm.list_models(), 5)
        raise InputError(
            f"unknown backbone '{name}': neither a ResNet of ours (resnet18/34/50/101/152) "
            f"nor a timm model; similar names: {', '.join(near) or 'see timm.list_models()'}"
        )
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        _validate_maps(name, output_stride)
        return _try_sizes(name, output_stride)


def _validate_maps(name: str, output_stride: int) -> None:
    """Raise InputError if a model has too few maps or another output stride, as it reports."""
    possible, reason = list[int](), ""
    for asked in (output_stride, 32, 16, 8):
        try:
            info: Any = _create_features(name, asked).feature_info
        except Exception as error:  # a model fails with an error of any type
            reason = reason or reason_of(error)
            continue
        maps, stride = len(info.channels()), info.reduction()[-1]
        if maps < 4:
            raise InputError(
                f"backbone '{name}' has {maps} feature maps, 4 are needed; choose another backbone"
            )
        if stride == asked == output_stride:
            return
        reason = f"its own is {stride}"
        possible += [asked] if stride == asked else []
    remedy = f"set model.output_stride: {' or '.join(map(str, possible))}"
    if not possible:
        remedy = f"nor another one ({reason}); choose another backbone"
    raise InputError(f"backbone '{name}' cannot have output stride {output_stride}; {remedy}")


def _try_sizes(name: str, output_stride: int) -> _Needs:
    """Return the options and the sizes that a model runs with; raises InputError if none."""
    reason = ""
    for options in _OPTIONS:
        try:
            features = _create_features(name, output_stride, options).eval()
        except TypeError:  # the model does not know the option
            continue
        for multiple in _MULTIPLES:
            reason = _try_multiple(features, multiple, output_stride)
            if not reason:
                return _Needs(options, multiple, _smallest(features, multiple))
    features = _create_features(name, output_stride).eval()
    own = (timm.get_pretrained_cfg_value(name, "input_size") or _USUAL_INPUT)[1]
    if not _try_multiple(features, own, output_stride):
        return _Needs({}, own, own)
    if not _try_size(features, own, own, output_stride):
        return _Needs({}, own, own, own)
    raise InputError(
        f"backbone '{name}' runs at none of the sizes that were tried ({reason}); "
        "choose another backbone"
    )


def _try_multiple(features: nn.Module, multiple: int, output_stride: int) -> str:
    """Return why a model cannot run at odd multiples of a number; "" if it can."""
    short, long = (multiple * (math.ceil(side / multiple) // 2 * 2 + 1) for side in _TRIED)
    long += 2 * multiple * (long == short)
    return _try_size(features, short, long, output_stride) or _try_size(
        features, long, short, output_stride
    )


def _smallest(features: nn.Module, multiple: int) -> int:
    """Return the smallest side that a model runs at, of those that a number divides."""
    sides = range(multiple, _TRIED[1], multiple)
    if not _try_size(features, multiple, multiple):
        return multiple
    return sides[bisect_left(sides, True, key=lambda side: not _try_size(features, side, side))]


def _try_size(
    features: nn.Module, height: int, width: int, output_stride: int | None = None
) -> str:
    """Return why a model cannot run at a size, with an output stride if given; "" if it can."""
    info: Any = features.feature_info
    try:
        with torch.no_grad():
            maps = _four_maps(features, torch.empty(1, 3, height, width))
    except Exception as error:  # a model that does not fit fails with an error of any type
        return reason_of(error)
    found = [x.shape[1] for x in maps]
    if found != info.channels()[-4:]:
        return f"its maps have {found} channels, not {info.channels()[-4:]}"
    if not all(x.numel() for x in maps):
        return "its maps are empty"
    # Convolutions without padding and roundings shrink maps by less than a factor of two.
    stride = max(height, width) / max(maps[-1].shape[-2:])
    if output_stride and round(math.log2(stride)) != round(math.log2(output_stride)):
        return f"its last map has a stride of {stride:.0f}, not {output_stride}"
    return ""


def _create_features(
    name: str, output_stride: int, options: Mapping[str, Any] = _OPTIONS[0]
) -> nn.Module:
    # Not all models know the argument; without it nearly all have 32.
    strides: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    return timm.create_model(name, features_only=True, **strides, **options)
