"""Normalize images on the device: they are moved as bytes, a quarter of the size of floats."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Normalize uint8 RGB (B, 3, H, W) to float32; mean and deviation are of values in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation, on the images' device."""
        mean, std = _constants(self.mean, self.std, images.device)
        return images.float().sub_(mean).div_(std)


@functools.cache
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Tensors created in inference mode cannot be used in training.
    with torch.inference_mode(False):
        values = torch.tensor([mean, std], device=device).view(2, 1, 3, 1, 1) * 255
    return values[0], values[1]
