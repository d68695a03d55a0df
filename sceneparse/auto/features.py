"""The maps of a frozen backbone, computed once: for training crops, and for scored images."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sceneparse.data.loader import TensorSamples
from sceneparse.data.sampling import Draw
from sceneparse.errors import InputError
from sceneparse.inference.normalization import Normalization
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.timm_backbone import TimmBackbone
from sceneparse.models.timm_features import read_maps
from sceneparse.runtime.precision import Compute
from sceneparse.runtime.progress import Progress

# Largest number in float16.
_MAX_HALF = torch.finfo(torch.float16).max
# Targets are kept at every fourth pixel, where crops of 4 n + 1 pixels have their finest features.
TARGET_STRIDE = 4

# The maps that the head reads; None for the others.
Maps = list[Tensor | None]


def frozen_maps(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """Return what the pretrained part of a backbone computes: its maps before a pyramid."""
    if isinstance(backbone, TimmBackbone) and backbone.pyramid is not None:
        return read_maps(backbone.features, images)
    return list(backbone(images))


def trained_maps(backbone: nn.Module, maps: Maps, size: Sequence[int]) -> Maps:
    """Return the maps for the head from `frozen_maps` of images of a size (H, W).

    The pyramid of a backbone has no pretrained weights, so it is trained with the head.
    """
    if isinstance(backbone, TimmBackbone) and backbone.pyramid is not None:
        return list(backbone.pyramid(maps, size))
    return list(maps)


def needed_maps(model: SegmentationModel) -> set[int]:
    """Return which of the frozen maps the heads of the first rung read."""
    if getattr(model.backbone, "pyramid", None) is not None:
        return {0, 1, 2, 3}
    return {0, 3} if getattr(model.head, "needs_details", False) else {3}


class RememberingBackbone(nn.Module):
    """A frozen backbone that computes the maps of the same images once.

    Those of the first different images are kept, until they fill `budget` bytes. `needed`: the maps
    that the head reads.
    Shape: (B, 3, H, W) -> what `trained_maps` returns for its maps
    """

    def __init__(self, backbone: nn.Module, needed: set[int], budget: float) -> None:
        super().__init__()
        self.backbone, self._needed, self._budget = backbone, needed, budget
        for name in ("output_stride", "size_multiple", "min_size", "max_size"):
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))
        self._known: dict[bytes, Maps] = {}

    def forward(self, images: Tensor) -> Maps:
        """Return the maps of normalised images."""
        pixels = images.contiguous().cpu().numpy()
        key = hashlib.blake2b(pixels.data, key=repr(images.shape).encode()[:64]).digest()
        maps = self._known.get(key)
        if maps is None:
            maps = only(frozen_maps(self.backbone, images), self._needed)
            size = bytes_of(maps)
            if size <= self._budget:
                self._known[key] = maps
                self._budget -= size
        return trained_maps(self.backbone, maps, images.shape[-2:])


def only(maps: Sequence[Tensor], needed: set[int]) -> Maps:
    """Return the needed maps; the places of the others hold None."""
    return [x if level in needed else None for level, x in enumerate(maps)]


def bytes_of(maps: Maps) -> int:
    """Return the memory that maps take."""
    return sum(x.nbytes for x in maps if x is not None)


@dataclass
class Crops:
    """Training crops of one size: their maps in float16, their targets, and their images' numbers.

    Shape: maps (C_i, h_i, w_i) and targets (H / 4, W / 4) of every crop
    """

    size: tuple[int, int]
    maps: list[Maps] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    images: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, numbers: Sequence[int], compute: Compute) -> tuple[Maps, Tensor]:
        """Return the maps (B, C_i, h_i, w_i), float32, and the targets (B, h, w) of some crops."""
        chosen = zip(*(self.maps[k] for k in numbers), strict=True)
        maps: Maps = [
            None if level[0] is None else compute.place_images(torch.stack(level).float())
            for level in chosen
        ]
        return maps, torch.stack([self.targets[k] for k in numbers])


def spread_order(size: int) -> list[int]:
    """Order 0..size-1 so that every beginning is spread evenly (van der Corput's sequence)."""
    bits = (size - 1).bit_length()
    mirrored = (int(f"{k:0{bits}b}"[::-1], 2) for k in range(1 << bits))
    return [k for k in mirrored if k < size]


@torch.no_grad()
def compute_crops(
    model: SegmentationModel,
    samples: Sequence[TensorSamples],
    *,
    normalize: Normalization,
    compute: Compute,
    enough: Callable[[], bool],
    budget: float,
) -> Crops:
    """Compute the maps of training crops until it is `enough`, or `budget` bytes are full.

    First one crop of every image, in spread order, then further ones. `samples`: as many copies of
    the training samples as are loaded at once.
    """
    model.eval()
    needed, crops = needed_maps(model), None
    progress = Progress("first model: features", None, "crops")
    with closing(_groups(samples)) as groups, progress:
        for draws, images, targets in groups:
            pixels = normalize(compute.place_images(images))
            with compute.autocast():
                maps = only(frozen_maps(model.backbone, pixels), needed)
            halves = [None if x is None else x.clamp(-_MAX_HALF, _MAX_HALF).half() for x in maps]
            crops = crops or Crops((images.shape[-2], images.shape[-1]))
            crops.maps += [
                [None if x is None else x[k].clone() for x in halves] for k in range(len(draws))
            ]
            crops.targets += list(_coarser(targets).to(compute.device))
            crops.images |= {draw.index for draw in draws}
            progress.advance(len(draws))
            budget -= bytes_of(halves)
            if enough() or budget < bytes_of(halves):
                return crops
    raise AssertionError("the draws never end")


def _coarser(targets: Tensor) -> Tensor:
    """Return targets at every fourth pixel, with the first and the last of each axis."""
    for axis in (1, 2):
        size = targets.shape[axis]
        places = torch.linspace(0, size - 1, -(-size // TARGET_STRIDE)).round().long()
        targets = targets.index_select(axis, places)
    return targets


def _groups(samples: Sequence[TensorSamples]) -> Generator[tuple[list[Draw], Tensor, Tensor]]:
    """Load crops of all images again and again, a group ahead of the network.

    Transforms keep a state, so that each thread needs samples of its own.
    """
    order = spread_order(len(samples[0].dataset))
    draws = (Draw(epoch, index) for epoch in itertools.count() for index in order)
    with ThreadPoolExecutor(len(samples)) as pool:

        def load() -> list[tuple[Draw, object]]:
            chosen = zip(samples, draws, strict=False)
            return [(draw, pool.submit(own.__getitem__, draw)) for own, draw in chosen]

        ahead = load()
        while True:
            group = [(draw, job.result()) for draw, job in ahead]  # type: ignore[attr-defined]
            ahead = load()
            error = next((found for _, found in group if isinstance(found, InputError)), None)
            if error is not None:
                raise error
            images, targets, _ = zip(*(found for _, found in group), strict=True)
            yield [draw for draw, _ in group], torch.stack(images), torch.stack(targets)
