"""The short list that a plan chooses from: network and image size, from cheap to fine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sceneparse.auto.facts import DataFacts
from sceneparse.errors import InputError
from sceneparse.models.downloads import imagenet_weights
from sceneparse.models.origin import IMAGENET, name_of
from sceneparse.models.pretrained import load_pretrained
from sceneparse.models.segmentation import create_segmentation_model
from sceneparse.models.stored import read_description

# Backbones with permissive ImageNet weights, from cheap to accurate.
_BACKBONES = ("mobilenetv2_100.ra_in1k", "mobilenetv4_conv_medium.e500_r256_in1k")
# Shares of the image's size that the network may see; coarser ones lose what is thin.
_SCALES = (0.25, 0.35, 0.5, 0.7, 1.0)
# Shortest side of a resized image, and largest side of a crop, in pixels.
_MIN_SIDE, _MAX_CROP = 96, 513
# The longest side that a network sees at all; larger images cost more than they give.
_MAX_LONG = 1280
# Pixels across a thin class that the network should see: its decoder has stride 4.
MIN_WIDTH = 2.0


@dataclass(frozen=True)
class Weights:
    """What training starts from: the backbone, the value of model.pretrained, and why."""

    backbones: Sequence[str]
    pretrained: str | None
    reason: str


@dataclass(frozen=True)
class Candidate:
    """Settings to measure: a backbone, the long side of images (None: their own), a crop (H, W)."""

    backbone: str
    long: int | None
    crop: tuple[int, int]
    scale: float

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


def find_weights(asked: str) -> Weights:
    """Return what `--weights` stands for: "imagenet", "none", a file of weights or a run.

    Without ImageNet weights, offline, training starts from scratch, and the reason says what to
    fetch. Raises InputError for a file that fits no backbone.
    """
    if asked == "none":
        return Weights(["resnet18"], None, "--weights none")
    if asked == IMAGENET:
        try:
            imagenet_weights(_BACKBONES[0], "--weights")
        except InputError as error:
            return Weights(["resnet18"], None, f"from scratch, much worse: {error}")
        return Weights(_BACKBONES, IMAGENET, "ImageNet weights need few images")
    _, meta = read_description(asked)
    if meta:
        return Weights([name_of(meta["model"])], asked, f"the weights of {asked}")
    return Weights([_backbone_of(Path(asked))], asked, f"--weights {asked}")


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

    `fixed`: settings that the user gave. `multiple`: crops are a multiple of it plus one.
    """
    height, width = facts.sizes[1]
    long = max(height, width)
    largest = min(1.0, _MAX_LONG / long)
    scales = [scale * largest for scale in _SCALES]
    wide = [scale for scale in scales if min(height, width) * scale >= _MIN_SIDE] or [largest]
    backbones = [fixed["model.backbone"]] if "model.backbone" in fixed else weights.backbones
    found = [_sized(backbones[0], scale, (height, width), multiple) for scale in wide]
    return found + [_sized(name, largest, (height, width), multiple) for name in backbones[1:]]


def _sized(backbone: str, scale: float, size: tuple[int, int], multiple: int) -> Candidate:
    long = None if scale >= 1 else round(max(size) * scale)
    height, width = (min(_aligned(side * scale, multiple), _MAX_CROP) for side in size)
    return Candidate(backbone, long, (height, width), scale)


def _aligned(length: float, multiple: int) -> int:
    """Return the largest multiple plus one within 4/5 of a length, where features lie on pixels."""
    return max(math.floor((0.8 * length - 1) / multiple), 2) * multiple + 1
