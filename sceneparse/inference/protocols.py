"""Test protocols: how an image is scaled, cut into windows, mirrored, and put together again.

A protocol is a callable (model, normalised images) -> PixelScores. Validation,
tools/eval_miou.py and prediction differ only in the protocol they are given, and print it beside
the numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.errors import InputError, NumericalError, unknown_name
from sceneparse.inference.scores import PixelScores, View, Window
from sceneparse.inference.windows import WEIGHTINGS, Span, place_windows
from sceneparse.models.segmentation import SegmentationNetwork

Infer = Callable[[SegmentationNetwork, Tensor], PixelScores]
# Pixels in one pass of the network: bounds its memory, and fills the device.
_PIXELS_IN_A_PASS = {"cpu": 768 * 768, "cuda": 16 * 768 * 768}
# mmsegmentation's test pipelines never let the long side of an image grow beyond this.
_MMSEG_LONGEST = 2048
_LONGEST_SIDE = 65_535
_LARGEST_SCALE = 16


def _two_thirds_up(crop: int) -> int:
    return math.ceil(crop * 2 / 3)


def _two_thirds_rounded(crop: int) -> int:
    return round(crop * 2 / 3)


@dataclass(frozen=True)
class Protocol:
    """All that makes one protocol differ from another.

    `crop`: height and width of windows; None: the whole image at once. `base`: the long or short
    `side` of an image is scaled to it, times each of `scales`; None: times the image's own size.
    `average` over overlapping windows and mirror images: of "softmax" or of "logits". `padding`
    of what is smaller than a window: "after" (right and bottom), "around" (all sides) or "none"
    (a smaller window); with "align" whole images are padded to a multiple of the output stride
    plus one, so that feature i lies exactly at pixel i * stride, where resizing with aligned
    corners puts it. `stride_of` tells how far apart windows of a size are.
    """

    name: str
    crop: tuple[int, int] | None = None
    base: int | None = None
    side: Literal["long", "short"] = "long"
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = False
    average: Literal["softmax", "logits"] = "softmax"
    weighting: str = "uniform"
    padding: Literal["align", "after", "around", "none"] = "none"
    stride_of: Callable[[int], int] = _two_thirds_up

    @property
    def words(self) -> str:
        """The protocol in words, to stand beside every number."""
        parts = ["whole image"]
        if self.crop is not None:
            weighting = "" if self.weighting == "uniform" else f", {self.weighting} weights"
            parts = [
                f"sliding window {self.crop[0]}x{self.crop[1]}, stride 2/3, "
                f"{self.average} averaged{weighting}"
            ]
        single = self.scales == (1.0,)
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        parts.append("single scale" if single else f"scales {scales} (softmax averaged)")
        parts += ["with mirror image"] if self.mirror else []
        if self.base is None:
            parts.append("at the image's own size" if single else "of the image's own size")
        else:
            parts.append(f"{self.side} side {'' if single else 'of scale 1 '}{self.base}")
        return f"{self.name}: " + ", ".join(parts)

    def __call__(self, model: SegmentationNetwork, images: Tensor) -> PixelScores:
        """Score normalised images (B, 3, H, W); raises NumericalError on NaN or Inf."""
        height, width = images.shape[-2:]
        views = [
            view
            for scale in self.scales
            for view in self._views(
                model, _resize_images(images, self.scaled(height, width, scale))
            )
        ]
        return PixelScores(views, (height, width), self.average)

    def scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Return the size an image is scaled to."""
        factor = self._factor(height, width, scale)
        # Rounded as the public code and mmsegmentation do, which differ at halves.
        rounded = round if self.side == "long" else lambda size: int(size + 0.5)
        return max(rounded(height * factor), 1), max(rounded(width * factor), 1)

    def _factor(self, height: int, width: int, scale: float) -> float:
        if self.base is None:
            return scale
        if self.side == "long":
            return round(self.base * scale) / max(height, width)
        longest = _MMSEG_LONGEST * scale / max(height, width)
        return min(self.base * scale / min(height, width), longest)

    def for_parts_of(self, height: int, width: int) -> Protocol:
        """Return the protocol that scales parts of an image as this one scales the whole."""
        factors = tuple(self._factor(height, width, scale) for scale in self.scales)
        return replace(self, base=None, scales=factors)

    def largest_size(self, height: int, width: int) -> int:
        """Return the pixels of an image at its own or the largest scale, whichever is more."""
        sizes = [self.scaled(height, width, scale) for scale in self.scales]
        return max(height * width, *(rows * columns for rows, columns in sizes))

    def _views(self, model: SegmentationNetwork, images: Tensor) -> list[View]:
        """Look at images, and at their mirror images, through all windows."""
        size = images.shape[-2], images.shape[-1]
        top, bottom = self._margins(size[0], 0, model.output_stride)
        left, right = self._margins(size[1], 1, model.output_stride)
        if top or bottom or left or right:
            images = F.pad(images, (left, right, top, bottom))
        rows, columns = (
            self._spans(images.shape[axis - 2], axis, images.device) for axis in (0, 1)
        )
        flips = (False, True) if self.mirror else (False,)
        looks = list(itertools.product(flips, rows, columns))
        windows = [
            Window(logits, rows.moved(-top), columns.moved(-left))
            for (_, rows, columns), logits in zip(looks, _run(model, images, looks), strict=True)
        ]
        if not self.mirror:
            return [View(size, windows)]
        if self.average == "softmax":
            # Of probabilities the mean over windows and mirror images is one sum.
            return [View(size, [window.weighted(0.5) for window in windows])]
        return [View(size, windows[: len(windows) // 2]), View(size, windows[len(windows) // 2 :])]

    def _spans(self, size: int, axis: int, device: torch.device) -> list[Span]:
        """Place windows along one axis of the padded image."""
        crop = size if self.crop is None else min(self.crop[axis], size)
        stride = self.stride_of(crop)
        return [
            Span(span.start, span.shares.to(device))
            for span in place_windows(size, crop, stride, self.weighting)
        ]

    def _margins(self, size: int, axis: int, stride: int) -> tuple[int, int]:
        """Pad this much before and after, along one axis."""
        if self.padding == "align":
            return 0, (1 - size) % stride
        missing = max(self.crop[axis] - size, 0) if self.crop is not None else 0
        if self.padding == "around":
            return missing // 2, missing - missing // 2
        return 0, missing if self.padding == "after" else 0


def _resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


# A window of rows and columns, and whether its mirror image is shown to the network.
Look = tuple[bool, Span, Span]


def _run(model: SegmentationNetwork, images: Tensor, looks: Sequence[Look]) -> Iterator[Tensor]:
    """Run the network on windows of one size, many at once; yields logits (B, h, w, K), float32."""
    _, rows, columns = looks[0]
    pixels = _PIXELS_IN_A_PASS.get(images.device.type, _PIXELS_IN_A_PASS["cpu"])
    at_once = max(pixels // (len(images) * len(rows) * len(columns)), 1)
    for first in range(0, len(looks), at_once):
        chosen = looks[first : first + at_once]
        logits = model(torch.cat([_cut(images, *look) for look in chosen]), upsample=False)["out"]
        if not torch.isfinite(logits).all():
            raise NumericalError(
                "the network's output is not finite; its weights or input are damaged"
            )
        for (flip, _, _), part in zip(chosen, logits.float().split(len(images)), strict=True):
            yield _mirrored(part, flip).permute(0, 2, 3, 1).contiguous()


def _cut(images: Tensor, flip: bool, rows: Span, columns: Span) -> Tensor:
    cut = images[..., rows.start : rows.start + len(rows), columns.start :][..., : len(columns)]
    return _mirrored(cut, flip)


def _mirrored(maps: Tensor, flip: bool) -> Tensor:
    return maps.flip(-1) if flip else maps


def create_protocol(
    name: str,
    *,
    dataset: str | None = None,
    crop: tuple[int, int] | None = None,
    base: int | None = None,
    scales: Sequence[float] | None = None,
    mirror: bool | None = None,
    weighting: str | None = None,
) -> Protocol:
    """Take an entry of PROTOCOLS and change what is given; None keeps the protocol's own value.

    `crop` matters to protocols with windows only. Where `base` is None, it is the one the protocol
    has for the `dataset`, if any. Raises InputError for an unknown name, or sizes and scales that
    cannot be.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    protocol = PROTOCOLS[name]
    if crop is not None and not 1 <= min(crop) <= max(crop) <= _LONGEST_SIDE:
        raise InputError(
            f"a window needs a height and width in 1..{_LONGEST_SIDE}, got {crop[0]} {crop[1]}"
        )
    if base is not None and not 1 <= base <= _LONGEST_SIDE:
        raise InputError(f"the base size must be in 1..{_LONGEST_SIDE}, got {base}")
    if scales is not None and not (scales and all(0 < s <= _LARGEST_SCALE for s in scales)):
        raise InputError(f"scales must be positive, up to {_LARGEST_SCALE}, got {list(scales)}")
    if weighting is not None and weighting not in WEIGHTINGS:
        raise unknown_name("weighting of windows", weighting, WEIGHTINGS)
    if protocol.crop is None:
        crop = None
    return replace(
        protocol,
        crop=crop or protocol.crop,
        base=base or BASES.get((name, dataset)),
        scales=tuple(scales or protocol.scales),
        mirror=protocol.mirror if mirror is None else mirror,
        weighting=weighting or protocol.weighting,
    )


# The sizes others test at.
BASES: dict[tuple[str, str | None], int] = {
    ("spnet", "ade20k"): 512,
    ("spnet", "cityscapes"): 2048,
    ("mmseg_whole", "ade20k"): 512,
    ("mmseg_slide", "ade20k"): 512,
    ("mmseg_whole", "cityscapes"): 1024,
    ("mmseg_slide", "cityscapes"): 1024,
}
_CROP = (480, 480)
_SIX_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
PROTOCOLS = {
    # ours: nothing is resized, features lie exactly on pixels
    "whole": Protocol("whole", padding="align", average="logits"),
    "slide": Protocol("slide", crop=_CROP, padding="after"),
    # the public test code of SPNet (https://github.com/houqb/SPNet)
    "spnet": Protocol("spnet", crop=_CROP, scales=_SIX_SCALES, mirror=True, padding="around"),
    # mmsegmentation's test_cfg dict(mode="whole") and dict(mode="slide")
    "mmseg_whole": Protocol("mmseg_whole", side="short", average="logits"),
    "mmseg_slide": Protocol(
        "mmseg_slide",
        crop=_CROP,
        side="short",
        average="logits",
        stride_of=_two_thirds_rounded,
    ),
}
