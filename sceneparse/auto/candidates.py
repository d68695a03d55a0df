"""The short list that a plan chooses from: network and image size, from cheap to fine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from sceneparse.auto.facts import DataFacts
from sceneparse.errors import InputError
from sceneparse.models.downloads import imagenet_weights
from sceneparse.models.origin import IMAGENET, imagenet_name, name_of
from sceneparse.models.pretrained import load_pretrained
from sceneparse.models.resnet import RESNETS
from sceneparse.models.segmentation import create_segmentation_model
from sceneparse.models.stored import read_description
from sceneparse.models.timm_backbone import TimmBackbone

# Backbones with permissive ImageNet weights, from cheap to accurate.
_BACKBONES = ("mobilenetv2_100.ra_in1k", "mobilenetv4_conv_medium.e500_r256_in1k")
# What is trained from scratch.
_SCRATCH = "resnet18"
# From cheap to fine: the share of the images' sides that is kept, and what crops take of it.
_SIZES = ((0.25, 0.8), (0.35, 0.8), (0.5, 0.8), (0.7, 0.8), (1.0, 0.65), (1.0, 0.8))
# Shortest side of a resized image, and largest side of a crop, in pixels.
_MIN_SIDE, _MAX_CROP = 96, 513
# The longest side that a network sees at all; larger images cost more than they give.
_MAX_LONG = 1280
# Pixels across a thin class that the network should see: its decoder has stride 4.
MIN_WIDTH = 1.75


@dataclass(frozen=True)
class Weights:
    """What training starts from: the backbone, the value of model.pretrained, and why."""

    backbones: Sequence[str]
    pretrained: str | None
    reason: str


@dataclass(frozen=True)
class Candidate:
    """Settings to measure: a backbone, the long side of images (None: their own), a crop (H, W).

    `scale`: the share of the images' sides that is kept. `larger`: not the smallest backbone.
    """

    backbone: str
    long: int | None
    crop: tuple[int, int]
    scale: float
    larger: bool = False

    @property
    def name(self) -> str:
        """Its name in tables: "mobilenetv2_100, images of 240 pixels, crops of 241x177"."""
        size = "images of their own size" if self.long is None else f"images of {self.long} pixels"
        return f"{self.backbone.partition('.')[0]}, {size}, crops of {self.crop[1]}x{self.crop[0]}"

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings, by dotted key."""
        return {
            "model.backbone": self.backbone,
            "data.resize": None if self.long is None else {"long": self.long},
            "augment.crop": list(self.crop),
        }


def find_weights(asked: str, backbone: str | None = None) -> Weights:
    """Return what `--weights` stands for: "imagenet", "none", a file of weights or a run.

    `backbone`: the one that the user chose, which a file is for.

    Without ImageNet weights, offline, training starts from scratch, and the reason says what to
    fetch. Raises InputError for a file that fits no backbone.
    """
    if asked == "none":
        return Weights([backbone or _SCRATCH], None, "--weights none")
    if asked == IMAGENET:
        return _find_imagenet([backbone] if backbone else _BACKBONES)
    _, meta = read_description(asked)
    if meta:
        return Weights([name_of(meta["model"])], asked, f"the weights of {asked}")
    path = Path(asked).resolve()
    return Weights([backbone or _backbone_of(path)], str(path), f"--weights {asked}")


def _find_imagenet(names: Sequence[str]) -> Weights:
    """Return the backbones whose ImageNet weights are at hand, up to the first that is not."""
    found: list[str] = []
    for name in names:
        try:
            imagenet_weights(imagenet_name({"backbone": name, "stem": "plain"}), "--weights")
        except InputError as error:
            if found:
                break
            worse = f"from scratch, which needs far more images and time: {error}"
            return Weights([_SCRATCH if names is _BACKBONES else name], None, worse)
        found.append(name)
    return Weights(found, IMAGENET, "networks trained on ImageNet need few images")


def _backbone_of(path: Path) -> str:
    """Return the backbone that a file of weights fits: first that of its name, then the list."""
    tried = dict.fromkeys((path.stem, path.stem.partition(".")[0], *_BACKBONES))
    problems = []
    for name in tried:
        try:
            model = create_segmentation_model(head="fcn", backbone=name, num_classes=2, aux=False)
            load_pretrained(model, path, setting="--weights")
        except InputError as error:
            problems.append(str(error))
        else:
            return name
    raise InputError(
        f"--weights: '{path}' fits none of {', '.join(tried)}; name the file after timm's network, "
        f"e.g. mobilenetv2_100.safetensors, or choose model.backbone=NAME ({problems[-1]})"
    )


def candidates(
    facts: DataFacts, weights: Weights, fixed: Mapping[str, Any], multiple: int
) -> list[Candidate]:
    """Return the short list for the sizes of the images, from cheap to fine.

    `fixed`: settings that the user gave. `multiple`: crops are a multiple of it plus one, or a
    multiple of what a network demands.
    """
    size = facts.sizes[1]
    asked = _fixed_scale(fixed, size)
    largest = min(1.0, _MAX_LONG / max(size)) if asked is None else asked
    sizes = [(scale * largest, share) for scale, share in _SIZES]
    listed = [s for s in sizes if s[0] == largest or (asked is None and _is_wide(size, s[0]))]
    first, *others = weights.backbones
    sized = partial(_sized, size=size, multiple=multiple, fixed=fixed)
    every = [sized(first, *s) for s in listed]
    every += [replace(sized(name, *sizes[-1]), larger=True) for name in others]
    return list(dict.fromkeys(every))


def _is_wide(size: tuple[int, int], scale: float) -> bool:
    return min(size) * scale >= _MIN_SIDE


def _fixed_scale(fixed: Mapping[str, Any], size: tuple[int, int]) -> float | None:
    """Return the scale of images that the user's data.resize asks for; None: there is none."""
    inner = {side: fixed.get(f"data.resize.{side}") for side in ("long", "short")}
    resize = fixed.get("data.resize", inner if any(inner.values()) else ...)
    if resize is ...:
        return None
    if resize is None:
        return 1.0
    side, of = ("long", max(size)) if resize.get("long") else ("short", min(size))
    return float(resize[side]) / of


def _sized(
    backbone: str,
    scale: float,
    share: float,
    *,
    size: tuple[int, int],
    multiple: int,
    fixed: Mapping[str, Any],
) -> Candidate:
    long = None if scale == 1 else round(max(size) * scale)
    unit = _unit(backbone, multiple)
    sides = (_aligned(share * scale * side, multiple, unit) for side in size)
    height, width = (min(side, _MAX_CROP) for side in sides)
    crop = fixed.get("augment.crop", (height, width))
    return Candidate(backbone, long, (crop[0], crop[1]), scale)


@cache
def _unit(backbone: str, output_stride: int) -> int:
    """Return the number of which the sizes of images must be multiples for a backbone."""
    if backbone in RESNETS:
        return 1
    with torch.device("meta"):
        return TimmBackbone(backbone, output_stride=output_stride).size_multiple


def _aligned(length: float, multiple: int, unit: int) -> int:
    """Return the largest multiple plus one within a length, where features lie on pixels.

    A network that takes multiples of a `unit` only gets such a multiple.
    """
    if unit > 1:
        return max(math.floor(length / unit), 1) * unit
    return max(math.floor((length - 1) / multiple), 2) * multiple + 1
