"""Normalisation on the device: images travel as bytes, a quarter of the size of floats."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Turns uint8 RGB (B, 3, H, W) into float32; mean and deviation are of RGB values in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Take the mean out and divide by the deviation, on the images' device."""
        mean, std = _constants(self.mean, self.std, images.device)
        return images.float().sub_(mean).div_(std)


@functools.cache
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Put the constants on the device, once."""
    # What is made in inference mode could not be used in training.
    with torch.inference_mode(False):
        values = torch.tensor([mean, std], device=device).view(2, 1, 3, 1, 1) * 255
    return values[0], values[1]
