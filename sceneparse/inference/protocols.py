"""Test protocols: how an image is scaled, cut into windows, mirrored, and reassembled.

A protocol is a callable (model, images, normalisation) -> PixelScores. Validation, evaluation and
prediction differ only in the protocol they are given, and print it beside the scores.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.data.resizing import Side
from sceneparse.errors import InputError, NumericalError, unknown_name
from sceneparse.inference.rescaling import Normalize, Rescale, rescale_images
from sceneparse.inference.scores import PixelScores, View, Window
from sceneparse.inference.windows import (
    WEIGHTINGS,
    Span,
    place_windows,
    two_thirds,
    two_thirds_of_mmseg,
)
from sceneparse.models.segmentation import SegmentationNetwork

Infer = Callable[[SegmentationNetwork, Tensor, Normalize], PixelScores]
# Pixels in one pass of the network: bounds its memory, and fills the device.
_PIXELS_IN_A_PASS = {"cpu": 768 * 768, "cuda": 16 * 768 * 768}
# Limit of mmsegmentation's test pipelines for the long side of an image.
_MMSEG_MAX_SIDE = 2048
_MAX_SIDE = 65_535
_MAX_SCALE = 16


@dataclass(frozen=True)
class Protocol:
    """The settings of a protocol.

    `crop`: height and width of windows; None: the whole image at once. `base`: the long or short
    `side` of an image is scaled to it, times each of `scales`; None: the image's own size times
    each of `scales`. `average` "softmax" or "logits" over overlapping windows and mirror images.
    `padding` of images smaller than a window: "after" (right and bottom), "around" (all sides) or
    "none" (a smaller window); "align" pads whole images to a multiple of the output stride plus
    one, so that feature i lies exactly at pixel i * stride, where resizing with aligned corners
    puts it. `stride_of`: how many pixels windows of a size are apart. `rescale`: "float" scales
    normalised images, and scores with aligned centres; "uint8" is mmsegmentation's: it scales
    pixels by OpenCV before they are normalised, and scores with the network's own corners;
    "training" scales pixels as data.resize does in training.

    If a network takes some sizes only, whole images and windows are extended to the right and
    bottom to the next of them, and the scores are cut back; "align" then adds nothing else.

    `temperature`: logits are divided by it before softmax; the most likely class of a single view
    stays the same.
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
    rescale: Rescale = "float"
    stride_of: Callable[[int], int] = two_thirds
    temperature: float = 1.0

    @property
    def description(self) -> str:
        """Description of the protocol, to be printed beside every score."""
        parts = ["whole image"]
        if self.crop is not None:
            weighting = "" if self.weighting == "uniform" else f", {self.weighting} weights"
            mmseg = self.rescale == "uint8"
            strides = "x".join(str(self.stride_of(size)) for size in self.crop)
            parts = [
                f"sliding window {self.crop[0]}x{self.crop[1]}, "
                f"stride {strides if mmseg else '2/3'}, "
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
        if self.rescale == "uint8" and not (single and self.base is None):
            parts.append("pixels rescaled as uint8 before normalising")
        parts += ["resized as in training"] if self.rescale == "training" else []
        return f"{self.name}: " + ", ".join(parts)

    def __call__(
        self,
        model: SegmentationNetwork,
        images: Tensor,
        normalize: Normalize = lambda images: images,
    ) -> PixelScores:
        """Score pixels (B, 3, H, W) in uint8, or normalised images if `normalize` is not given.

        Raises NumericalError on NaN or Inf, InputError for normalised images that are to be
        rescaled as uint8.
        """
        height, width = images.shape[-2:]
        sizes = [self.scaled(height, width, scale) for scale in self.scales]
        scaled = rescale_images(images, sizes, self.rescale, normalize)
        views = [view for images in scaled for view in self._views(model, images)]
        return PixelScores(views, (height, width), self.average, self.temperature)

    def scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Return the size an image is scaled to."""
        factor = self._factor(height, width, scale)
        # The public SPNet code and mmsegmentation round halves differently.
        rounded = (lambda size: int(size + 0.5)) if self.rescale == "uint8" else round
        return max(rounded(height * factor), 1), max(rounded(width * factor), 1)

    def _factor(self, height: int, width: int, scale: float) -> float:
        if self.base is None:
            if self.rescale != "uint8":
                return scale
            # mmcv rounds the sides of the scaled image, then fits the image into them.
            sides = [(max(int(side * scale + 0.5), 1), side) for side in (height, width)]
            return min(scaled / side for scaled, side in sides)
        if self.side == "long":
            return round(self.base * scale) / max(height, width)
        if self.rescale == "training":
            return self.base * scale / min(height, width)
        longest = _MMSEG_MAX_SIDE * scale / max(height, width)
        return min(self.base * scale / min(height, width), longest)

    def for_parts_of(self, height: int, width: int) -> Protocol:
        """Return a protocol that scales tiles of an image by the same factors as the whole."""
        factors = tuple(self._factor(height, width, scale) for scale in self.scales)
        return replace(self, base=None, scales=factors)

    def largest_scaled(self, height: int, width: int) -> int:
        """Return the number of pixels of an image at its largest scale."""
        sizes = [self.scaled(height, width, scale) for scale in self.scales]
        return max(rows * columns for rows, columns in sizes)

    def input_size(self, model: SegmentationNetwork, height: int, width: int) -> tuple[int, int]:
        """Return the size of what the network gets of a scaled image of this size."""
        sides = [s + sum(self._margins(s, axis, model)) for axis, s in enumerate((height, width))]
        rows, columns = sides if self.crop is None else map(min, sides, self.crop)
        return model.fitting_size(rows, columns)

    def _views(self, model: SegmentationNetwork, images: Tensor) -> list[View]:
        """Run the network on all windows of scaled images, and of their mirror images."""
        size = images.shape[-2], images.shape[-1]
        top, bottom = self._margins(size[0], 0, model)
        left, right = self._margins(size[1], 1, model)
        if top or bottom or left or right:
            images = F.pad(images, (left, right, top, bottom))
        rows, columns = self._spans(images, 0), self._spans(images, 1)
        height, width = self.input_size(model, *size)
        below, beyond = height - len(rows[0]), width - len(columns[0])
        if below or beyond:
            images = F.pad(images, (0, beyond, 0, below))
        rows, extended = _extend(rows, below), _extend(columns, beyond)
        looks = list(itertools.product((False,), rows, extended))
        if self.mirror and self.rescale == "uint8":
            # mmsegmentation places windows on the mirrored image, the SPNet code on the image.
            extended = _extend([span.mirrored(size[1]) for span in columns], beyond)
        if self.mirror:
            looks += itertools.product((True,), rows, extended)
        parts = [
            (images[..., rows.start :, columns.start :][..., : len(rows), : len(columns)], flip)
            for flip, rows, columns in looks
        ]
        # With "softmax", the mean of probabilities over windows and mirror images is one sum.
        one_sum = not self.mirror or self.average == "softmax"
        share = 0.5 if self.mirror and one_sum else 1.0
        windows = [
            Window(
                _mirror(logits, flip).permute(0, 2, 3, 1).contiguous(),
                Span(rows.start - top, rows.shares * share),
                replace(columns, start=columns.start - left),
                align_corners=model.align_corners,
            )
            for (flip, rows, columns), logits in zip(looks, _run(model, parts), strict=True)
        ]
        aligned = self.rescale == "uint8" and model.align_corners
        half = len(windows) if one_sum else len(windows) // 2
        return [View(size, part, aligned) for part in (windows[:half], windows[half:]) if part]

    def _spans(self, images: Tensor, axis: int) -> list[Span]:
        """Place windows along one axis of padded images."""
        size = images.shape[axis - 2]
        crop = size if self.crop is None else min(self.crop[axis], size)
        spans = place_windows(size, crop, self.stride_of(crop), self.weighting)
        return [replace(span, shares=span.shares.to(images.device)) for span in spans]

    def _margins(self, size: int, axis: int, model: SegmentationNetwork) -> tuple[int, int]:
        """Return the padding before and after the image, along one axis."""
        if self.padding == "align":
            return 0, (1 - size) % model.output_stride if model.size_multiple == 1 else 0
        missing = max(self.crop[axis] - size, 0) if self.crop is not None else 0
        if self.padding == "around":
            return missing // 2, missing - missing // 2
        return 0, missing if self.padding == "after" else 0


def _extend(spans: list[Span], extra: int) -> list[Span]:
    """Extend windows by pixels without a share in the scores."""
    return [replace(span, shares=F.pad(span.shares, (0, extra))) for span in spans]


def _run(model: SegmentationNetwork, parts: Sequence[tuple[Tensor, bool]]) -> Iterator[Tensor]:
    """Run the network on images of one size, mirrored if so marked, many at once.

    Yields float32 logits (B, K, h, w).
    """
    images, _ = parts[0]
    pixels = _PIXELS_IN_A_PASS.get(images.device.type, _PIXELS_IN_A_PASS["cpu"])
    at_once = max(pixels // (len(images) * images[0, 0].numel()), 1)
    for first in range(0, len(parts), at_once):
        chosen = [_mirror(*part) for part in parts[first : first + at_once]]
        logits = model(torch.cat(chosen), upsample=False)["out"]
        if not torch.isfinite(logits).all():
            raise NumericalError(
                "the network's output is not finite; its weights or input are damaged"
            )
        yield from logits.float().split(len(images))


def _mirror(maps: Tensor, flip: bool) -> Tensor:
    return maps.flip(-1) if flip else maps


def create_protocol(  # noqa: PLR0913 - keyword-only settings
    name: str,
    *,
    dataset: str | None = None,
    crop: tuple[int, int] | None = None,
    base: int | None = None,
    scales: Sequence[float] | None = None,
    mirror: bool | None = None,
    weighting: str | None = None,
    resize: Mapping[Side, int] | None = None,
) -> Protocol:
    """Return a protocol of PROTOCOLS with changed settings; None keeps its own value.

    `crop`: height and width of windows, for protocols that have them. `base`: see Protocol; None:
    that of the protocol for the `dataset`, if any. `scales`, `mirror`: average scores over these
    scales, and with the mirrored image. `weighting`: of pixels within a window, one of WEIGHTINGS.
    `resize`: data.resize of the training, {side: length}; whole and slide then scale images to it.
    Raises InputError for an unknown name, size or scale, and for `base` together with `resize`.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    protocol = PROTOCOLS[name]
    if crop is not None and not 1 <= min(crop) <= max(crop) <= _MAX_SIDE:
        raise InputError(
            f"a window needs a height and width in 1..{_MAX_SIDE}, got {crop[0]} {crop[1]}"
        )
    if base is not None and not 1 <= base <= _MAX_SIDE:
        raise InputError(f"the base size must be in 1..{_MAX_SIDE}, got {base}")
    if scales is not None and not (scales and all(0 < s <= _MAX_SCALE for s in scales)):
        raise InputError(f"scales must be positive, up to {_MAX_SCALE}, got {list(scales)}")
    if weighting is not None and weighting not in WEIGHTINGS:
        raise unknown_name("weighting of windows", weighting, WEIGHTINGS)
    if resize is not None:
        protocol = _resized_as_in_training(protocol, resize, base)
    return replace(
        protocol,
        crop=protocol.crop and (crop or protocol.crop),
        base=base or protocol.base or BASES.get((name, dataset)),
        scales=tuple(scales or protocol.scales),
        mirror=protocol.mirror if mirror is None else mirror,
        weighting=weighting or protocol.weighting,
    )


def _resized_as_in_training(
    protocol: Protocol, resize: Mapping[Side, int], base: int | None
) -> Protocol:
    ((side, length),) = resize.items()
    if protocol.name in {name for name, _ in BASES}:
        raise InputError(
            f"protocol {protocol.name} scales images to a base size of its own, but the training "
            f"resizes them ({side} side {length}); choose protocol whole or slide, or train with "
            "data.resize: null"
        )
    if base is not None:
        raise InputError(
            f"a base size of {base} contradicts data.resize ({side} side {length}), which sets the "
            f"size of images here too; remove it, or set scales, e.g. {base / length:.2g}"
        )
    return replace(protocol, base=length, side=side, rescale="training")


# The sizes that published results were tested at.
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
    # of this package: nothing is resized, features lie exactly on pixels
    "whole": Protocol("whole", padding="align", average="logits"),
    "slide": Protocol("slide", crop=_CROP, padding="after"),
    # the public test code of SPNet (https://github.com/houqb/SPNet)
    "spnet": Protocol("spnet", crop=_CROP, scales=_SIX_SCALES, mirror=True, padding="around"),
    # mmsegmentation 1.x: its test pipeline, and test_cfg dict(mode="whole") or dict(mode="slide")
    "mmseg_whole": Protocol("mmseg_whole", side="short", average="logits", rescale="uint8"),
    "mmseg_slide": Protocol(
        "mmseg_slide",
        crop=_CROP,
        side="short",
        average="logits",
        rescale="uint8",
        stride_of=two_thirds_of_mmseg,
    ),
}
