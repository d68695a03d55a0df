"""Inference: functions from normalised images to scores at the images' own size.

Validation, tools/eval_miou.py and prediction differ only in which function they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.errors import InputError, NumericalError
from sceneparse.layers.blocks import resize
from sceneparse.models.segmentation import SegmentationModel

Infer = Callable[[SegmentationModel, Tensor], Tensor]


@dataclass(frozen=True)
class Normalization:
    """Turns uint8 RGB (B, 3, H, W) into float32; mean and deviation are of RGB values in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Take the mean out and divide by the deviation, on the images' device."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1) * 255
        return (images.float() - mean) / std


def whole_image(model: SegmentationModel, images: Tensor) -> Tensor:
    """Run the network once on whole images, padded at the right and bottom.

    Padded to a multiple of the output stride plus one, feature i lies exactly at pixel i * stride,
    which is where resizing with aligned corners puts it.
    Shape: (B, 3, H, W) -> logits (B, K, H, W), float32
    """
    height, width = images.shape[-2:]
    stride = model.output_stride
    padded = F.pad(images, (0, (1 - width) % stride, 0, (1 - height) % stride))
    return _full_size_logits(model, padded)[..., :height, :width]


def _full_size_logits(model: SegmentationModel, images: Tensor) -> Tensor:
    logits = model(images, upsample=False)["out"].float()
    return resize(logits, images.shape[-2:])


def sliding_window(
    model: SegmentationModel, images: Tensor, *, crop: tuple[int, int], batch: int = 4
) -> Tensor:
    """Average the softmax of overlapping windows (SPNet's public protocol: stride ceil(2/3 crop)).

    An image smaller than a window is padded with the mean. Windows run in batches of `batch`.
    Shape: (B, 3, H, W) -> probabilities (B, K, H, W), float32
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, max(crop[1] - width, 0), 0, max(crop[0] - height, 0)))
    corners = [
        (top, left)
        for top in window_starts(padded.shape[-2], crop[0])
        for left in window_starts(padded.shape[-1], crop[1])
    ]
    total: Tensor | None = None
    overlap = padded.new_zeros(1, 1, *padded.shape[-2:])
    for first in range(0, len(corners), batch):
        chosen = corners[first : first + batch]
        windows = [padded[..., top : top + crop[0], left : left + crop[1]] for top, left in chosen]
        probabilities = _full_size_logits(model, torch.cat(windows)).softmax(dim=1)
        if total is None:
            total = probabilities.new_zeros(len(images), probabilities.shape[1], *padded.shape[-2:])
        for (top, left), part in zip(chosen, probabilities.split(len(images)), strict=True):
            total[..., top : top + crop[0], left : left + crop[1]] += part
            overlap[..., top : top + crop[0], left : left + crop[1]] += 1
    assert total is not None  # there is always one window
    return (total / overlap)[..., :height, :width]


def window_starts(size: int, crop: int) -> list[int]:
    """Place windows of `crop` pixels over `size` >= crop, a stride of ceil(2/3 crop) apart.

    Returns their starts; the last window is moved back to end at the border.
    """
    stride = math.ceil(crop * 2 / 3)
    count = math.ceil((size - crop) / stride) + 1
    return [min(index * stride, size - crop) for index in range(count)]


def create_infer(mode: str, crop: tuple[int, int]) -> tuple[Infer, str]:
    """Return the inference function of a mode ("whole" or "slide") and the protocol in words."""
    if min(crop) < 1:
        raise InputError(f"a window needs a positive height and width, got {crop[0]} {crop[1]}")
    if mode == "whole":
        return whole_image, "whole image, single scale, at the image's own size"
    words = f"sliding window {crop[0]}x{crop[1]}, stride 2/3, single scale, at the image's own size"
    return partial(sliding_window, crop=crop), words


def predict_labels(infer: Infer, model: SegmentationModel, images: Tensor) -> Tensor:
    """Return the most likely class of each pixel, (B, H, W); raise NumericalError on NaN or Inf."""
    scores = infer(model, images)
    if not torch.isfinite(scores).all():
        raise NumericalError("the network's output is not finite; its weights or input are damaged")
    return scores.argmax(dim=1)
