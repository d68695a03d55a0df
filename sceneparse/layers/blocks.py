"""The two pieces that everything else is made of: convolution-norm-activation, and resizing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm and, unless `activation` is False, ReLU.

    The padding keeps the size at stride 1. Shape: (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        dilation: int = 1,
        activation: bool = True,
    ) -> None:
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        padding = (kernel[0] // 2 * dilation, kernel[1] // 2 * dilation)
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
            ),
            nn.BatchNorm2d(out_channels),
        ]
        if activation:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize maps (B, C, h, w) to (B, C, *size), bilinear, corners aligned as SPNet does it."""
    # An exported graph serves all sizes, so that there is nothing to compare.
    if not torch.compiler.is_exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
