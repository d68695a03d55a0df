"""Place windows over an image, and weight their scores where they overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Deviation of a Gaussian window as a share of its size, as in nnU-Net (Nature Methods 2021).
_GAUSSIAN_DEVIATION = 1 / 8
WEIGHTINGS = ("uniform", "gaussian")


@dataclass(frozen=True)
class Span:
    """A window along one axis: its first pixel, and its share (n,) in the score of each pixel."""

    start: int
    shares: Tensor

    def __len__(self) -> int:
        return len(self.shares)

    def mirrored(self, size: int) -> Span:
        """Return where the window lies in the mirror image, `size` pixels wide."""
        return Span(size - self.start - len(self), self.shares.flip(0))


def two_thirds(crop: int) -> int:
    """Return two thirds of a window's size, rounded up."""
    return math.ceil(crop * 2 / 3)


def two_thirds_of_mmseg(crop: int) -> int:
    """Return the stride that mmsegmentation's configurations have for a window's size.

    They round down, e.g. 426 for 640, but sizes of a multiple of eight plus one (769) keep the one.
    """
    aligned = int(crop % 8 == 1)
    return (crop - aligned) * 2 // 3 + aligned


def place_windows(size: int, crop: int, stride: int, weighting: str = "uniform") -> list[Span]:
    """Place the fewest windows of `crop` pixels over `size` >= crop, at most `stride` apart.

    The last window is moved back to end at the border. The shares of all windows at a pixel add up
    to one: "uniform" is a plain average, "gaussian" gives the middle of a window more weight.
    """
    count = math.ceil((size - crop) / stride) + 1
    starts = [min(index * stride, size - crop) for index in range(count)]
    weights = torch.ones(crop, dtype=torch.float64)
    if weighting == "gaussian":
        from_middle = (torch.arange(crop, dtype=torch.float64) + 0.5) / crop - 0.5
        weights = torch.exp(-0.5 * (from_middle / _GAUSSIAN_DEVIATION) ** 2)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + crop] += weights
    return [Span(start, (weights / total[start : start + crop]).float()) for start in starts]
