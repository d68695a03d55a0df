"""The parts that all networks use: convolutions with norm and activation, and resizing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm and, unless `activation` is False, ReLU.

    Shape: (B, in_channels, H, W) -> (B, out_channels, H, W)
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
        conv = nn.Conv2d(
            in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
        )
        norm = nn.BatchNorm2d(out_channels)
        super().__init__(conv, norm, *([nn.ReLU(inplace=True)] if activation else []))


def conv3x3(
    in_channels: int, out_channels: int, *, separable: bool, dilation: int = 1
) -> nn.Sequential:
    """Return a 3x3 convolution with batch norm and ReLU.

    `separable`: a 3x3 convolution of each channel, then a 1x1 convolution of all, for about a ninth
    of the multiply-adds (Chen et al., ECCV 2018, section 3.1).
    """
    if not separable:
        return ConvNormAct(in_channels, out_channels, 3, dilation=dilation)
    each = nn.Conv2d(
        in_channels,
        in_channels,
        3,
        padding=dilation,
        dilation=dilation,
        groups=in_channels,
        bias=False,
    )
    return nn.Sequential(each, *ConvNormAct(in_channels, out_channels, 1))


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize maps (B, C, h, w) to (B, C, *size): bilinear, with aligned corners as in SPNet."""
    # An exported graph serves all sizes, so it must not depend on this comparison.
    if not torch.compiler.is_exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
