"""ResNets (He et al., CVPR 2016): dilated as in SPNet, or for CIFAR; with attention blocks.

Module names follow torchvision and timm, so that their ImageNet weights load key for key; the deep
stem is that of timm's `resnet50s`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.errors import InputError, unknown_name
from sceneparse.layers.attention import Attention

Stem = Literal["deep", "plain", "cifar"]
Places = Literal["spnet", "all"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; attention after the second norm, before the sum.

    Shape: (B, in_channels, H, W) -> (B, width, H / stride, W / stride)
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        attention: Attention | None = None,
        padded_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.attention = attention(width) if attention else nn.Identity()
        self.downsample = _shortcut(in_channels, width, stride, padded=padded_shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        result: Tensor = self.relu(out + self.downsample(x))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions with a shortcut; attention after the 3x3's ReLU.

    Its one 3x3 convolution takes the first of `dilations`.
    Shape: (B, in_channels, H, W) -> (B, 4 * width, H / stride, W / stride)
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        attention: Attention | None = None,
        padded_shortcut: bool = False,
    ) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.attention = attention(width) if attention else nn.Identity()
        self.downsample = _shortcut(in_channels, out_channels, stride, padded=padded_shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.relu(self.bn2(self.conv2(out))))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu(out + self.downsample(x))
        return result


class ResNet(nn.Module):
    """Backbone of four stages; dilation instead of stride keeps the output stride at 8 or 16.

    `base_width` is the width of the first stage, 64 in the paper; less makes a small network.
    `depths` may be of three stages (the small ResNets for CIFAR, section 4.2 of He et al., whose
    `padded_shortcuts` have no parameters). The stem "cifar", one 3x3 convolution, keeps the size of
    the image, so that the output stride is a quarter of the one given.
    `multi_grid` multiplies the dilations of the blocks of stage 4. `attention` builds a block from
    its number of channels; with `attention_places` "spnet" it sits in the last block of stages 1-3
    and every block of stage 4 (SPNet, section 4.1), with "all" in every block.

    Shape: (B, 3, H, W) -> four maps (B, channels[i], H_i, W_i)
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        *,
        output_stride: int = 8,
        multi_grid: tuple[int, ...] | None = (1, 2, 4),
        stem: Stem = "deep",
        base_width: int = 64,
        attention: Attention | None = None,
        attention_places: Places = "spnet",
        padded_shortcuts: bool = False,
    ) -> None:
        super().__init__()
        self.output_stride = output_stride // 4 if stem == "cifar" else output_stride
        self.base_width = base_width
        self.stages = len(depths)
        widths = [base_width * 2**stage for stage in range(self.stages)]
        self.channels = tuple(width * block.expansion for width in widths)
        self.conv1, stem_channels = _stem(stem, base_width)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        strides, dilations = _STRIDES_AND_DILATIONS[output_stride]
        in_channels = stem_channels
        for stage in range(self.stages):
            blocks = []
            for index in range(depths[stage]):
                grid = multi_grid if stage == 3 else None
                attended = attention_places == "all" or stage == 3 or index == depths[stage] - 1
                blocks.append(
                    block(
                        in_channels,
                        widths[stage],
                        stride=strides[stage] if index == 0 else 1,
                        dilations=_dilations(dilations[stage], index, grid),
                        attention=attention if attended else None,
                        padded_shortcut=padded_shortcuts,
                    )
                )
                in_channels = self.channels[stage]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self._initialise()

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps

    def first_stages(self, count: int) -> list[nn.Module]:
        """Return the modules of the stem and the first `count` stages, without attention blocks.

        Attention has no pretrained weights to keep.
        """
        parts = ("conv1", "bn1", *(f"layer{stage + 1}" for stage in range(count)))
        return [
            module
            for name, module in self.named_modules()
            if name.split(".")[0] in parts
            and "attention" not in name.split(".")
            and not isinstance(module, nn.Sequential | BasicBlock | Bottleneck)
        ]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # normal(0, sqrt(2 / (kh * kw * out_channels))), as the SPNet backbone
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# Strides and dilations of the four stages by output stride.
_STRIDES_AND_DILATIONS = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


def _dilations(dilation: int, index: int, grid: tuple[int, ...] | None) -> tuple[int, int]:
    """Dilations of the first and the other convolution of block `index` of a stage."""
    if grid is not None:
        return dilation * grid[index], dilation * grid[index]
    # The first convolution still sees the previous stage's spacing.
    return (max(dilation // 2, 1) if index == 0 else dilation), dilation


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, with `missing` channels of zeros around (He et al., option A)."""

    def __init__(self, missing: int, stride: int) -> None:
        super().__init__()
        self.missing, self.stride = missing, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.missing // 2
        sampled = x[..., :: self.stride, :: self.stride]
        return F.pad(sampled, (0, 0, 0, 0, before, self.missing - before))


class SampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution, as a plain one of every `stride`-th pixel.

    In bfloat16 and with fewer than 16 channels, oneDNN's gradient of the strided one overruns its
    memory, and the process crashes (torch 2.14 on AVX-512).
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


def _shortcut(in_channels: int, out_channels: int, stride: int, *, padded: bool) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if padded:
        return PaddedShortcut(out_channels - in_channels, stride)
    conv = SampledConv2d if in_channels < 16 else nn.Conv2d
    return nn.Sequential(
        conv(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _stem(stem: Stem, width: int) -> tuple[nn.Module, int]:
    if stem == "plain":
        return nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), width
    if stem == "cifar":
        return _conv3x3(3, width, 1, 1), width
    convs = nn.Sequential(
        _conv3x3(3, width, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _conv3x3(width, width, 1, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _conv3x3(width, 2 * width, 1, 1),
    )
    return convs, 2 * width


def create_resnet(
    name: str,
    *,
    output_stride: int = 8,
    multi_grid: tuple[int, ...] | None = (1, 2, 4),
    stem: Stem = "deep",
    base_width: int = 64,
    attention: Attention | None = None,
    attention_places: Places = "spnet",
) -> ResNet:
    """Build one of RESNETS, randomly initialised."""
    if name not in RESNETS:
        raise unknown_name("ResNet", name, RESNETS)
    if output_stride not in _STRIDES_AND_DILATIONS:
        raise unknown_name("output stride", str(output_stride), map(str, _STRIDES_AND_DILATIONS))
    if attention_places not in ("spnet", "all"):
        raise unknown_name("attention_places", attention_places, ("spnet", "all"))
    if base_width < 8 or base_width % 8:
        # oneDNN's gradients of strided 1x1 convolutions of 4 channels are wrong (seen on AVX2).
        raise InputError(f"base_width must be a multiple of 8, got {base_width}")
    block, depths = RESNETS[name]
    return ResNet(
        block,
        depths,
        output_stride=output_stride,
        multi_grid=multi_grid,
        stem=stem,
        base_width=base_width,
        attention=attention,
        attention_places=attention_places,
    )


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
