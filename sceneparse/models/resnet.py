"""ResNets (He et al., CVPR 2016): dilated as in SPNet, or for CIFAR; with attention blocks.

Module names follow torchvision and timm, so that their ImageNet weights load key for key; the deep
stem is that of timm's `resnet50s`.
"""

from itertools import accumulate
from operator import mul
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.errors import InputError, unknown_name
from sceneparse.layers.attention import Attention

Stem = Literal["deep", "plain", "cifar"]
Places = Literal["spnet", "all"]

_MAX_GRID_FACTOR = 64
# Strides and dilations of the four stages, by output stride.
_STRIDES_AND_DILATIONS = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )


def _stem(stem: Stem, width: int) -> tuple[nn.Module, int]:
    """Build the first convolution of a network; return it with its output channels."""
    if stem == "plain":
        return nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), width
    if stem == "cifar":
        return _conv3x3(3, width), width
    convs = nn.Sequential(
        _conv3x3(3, width, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _conv3x3(width, width),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _conv3x3(width, 2 * width),
    )
    return convs, 2 * width


class SampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution, computed as a plain one of every `stride`-th pixel.

    In bfloat16 and with fewer than 16 channels, oneDNN's gradient of the strided one writes outside
    its memory, and the process crashes (torch 2.14 on AVX-512).
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


class BlockSettings(NamedTuple):
    """What differs between the blocks of a network."""

    stride: int
    dilations: tuple[int, int]  # of the first and the other 3x3 convolution
    attention: Attention
    padded_shortcut: bool  # a shortcut without parameters (He et al., option A)


def _shortcut(in_channels: int, out_channels: int, settings: BlockSettings) -> nn.Module:
    stride = settings.stride
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if settings.padded_shortcut:  # every `stride`-th pixel, with channels of zeros on both sides
        before = (out_channels - in_channels) // 2
        after = out_channels - in_channels - before
        return nn.Sequential(nn.AvgPool2d(1, stride), nn.ZeroPad3d((0, 0, 0, 0, before, after)))
    conv = SampledConv2d if in_channels < 16 else nn.Conv2d
    return nn.Sequential(
        conv(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; attention after the second norm, before the sum.

    Shape: (B, in_channels, H, W) -> (B, width, H / stride, W / stride)
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, settings: BlockSettings) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, settings.stride, settings.dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, dilation=settings.dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.attention = settings.attention(width)
        self.downsample = _shortcut(in_channels, width, settings)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions with a shortcut; attention after the 3x3's ReLU.

    Its one 3x3 convolution takes the first of `dilations`.
    Shape: (B, in_channels, H, W) -> (B, 4 * width, H / stride, W / stride)
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, settings: BlockSettings) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, settings.stride, settings.dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.attention = settings.attention(width)
        self.downsample = _shortcut(in_channels, out_channels, settings)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.relu(self.bn2(self.conv2(out))))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """Backbone of three or four stages, built by `ResNet(*RESNETS[name])`, randomly initialised.

    Dilation instead of stride keeps the output stride at 8 or 16; `multi_grid` multiplies the
    dilations of the blocks of stage 4. `base_width`: channels of stage 1, 64 in the paper.
    `attention` sits in the last block of stages 1-3 and every block of stage 4 (SPNet, section
    4.1), with `attention_places` "all" in every block. The stem "cifar" keeps the size of the
    image, so the output stride is a quarter of the given one. `strides`: input pixels per pixel of
    each map. Raises InputError.

    Shape: (B, 3, H, W) -> maps (B, channels[i], H_i, W_i), one per stage
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
        attention: Attention = nn.Identity,
        attention_places: Places = "spnet",
        padded_shortcuts: bool = False,
    ) -> None:
        super().__init__()
        _validate(depths, output_stride, multi_grid, base_width, attention_places)
        strides, dilations = _STRIDES_AND_DILATIONS[output_stride]
        self.output_stride = output_stride // 4 if stem == "cifar" else output_stride
        stem_stride = 1 if stem == "cifar" else 4
        own = strides[: len(depths)]
        self.strides = tuple(stem_stride * stride for stride in accumulate(own, mul))
        widths = [base_width * 2**stage for stage in range(len(depths))]
        self.channels = tuple(width * block.expansion for width in widths)
        self.conv1, in_channels = _stem(stem, base_width)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        for stage, depth in enumerate(depths):
            grid = multi_grid if stage == 3 else None
            blocks = []
            for index in range(depth):
                attended = attention_places == "all" or stage == 3 or index == depth - 1
                settings = BlockSettings(
                    stride=strides[stage] if index == 0 else 1,
                    dilations=_dilations(dilations[stage], index, grid),
                    attention=attention if attended else nn.Identity,
                    padded_shortcut=padded_shortcuts,
                )
                blocks.append(block(in_channels, widths[stage], settings))
                in_channels = self.channels[stage]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # normal(0, sqrt(2 / (kh * kw * out_channels))), as in SPNet's backbone
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in range(1, len(self.channels) + 1):
            x = self.get_submodule(f"layer{stage}")(x)  # (B, channels[stage - 1], H_i, W_i)
            maps.append(x)
        return maps

    def first_stages(self, count: int) -> list[nn.Module]:
        """Return the modules of the stem and the first `count` stages.

        Without attention blocks, which have no pretrained weights to keep.
        """
        parts = ("conv1", "bn1", *(f"layer{stage + 1}" for stage in range(count)))
        return [
            module
            for name, module in self.named_modules()
            if name.split(".")[0] in parts
            and "attention" not in name.split(".")
            and not isinstance(module, nn.Sequential | BasicBlock | Bottleneck)
        ]


def _dilations(dilation: int, index: int, multi_grid: tuple[int, ...] | None) -> tuple[int, int]:
    """Return the dilations of the first and the other convolutions of block `index` of a stage."""
    if multi_grid is not None:
        return dilation * multi_grid[index], dilation * multi_grid[index]
    # The first convolution still sees the previous stage's spacing.
    return (max(dilation // 2, 1) if index == 0 else dilation), dilation


def _validate(
    depths: tuple[int, ...],
    output_stride: int,
    multi_grid: tuple[int, ...] | None,
    base_width: int,
    attention_places: str,
) -> None:
    if output_stride not in _STRIDES_AND_DILATIONS:
        raise unknown_name("output stride", str(output_stride), map(str, _STRIDES_AND_DILATIONS))
    if attention_places not in ("spnet", "all"):
        raise unknown_name("attention_places", attention_places, ("spnet", "all"))
    if base_width < 8 or base_width % 8:
        # oneDNN's gradients of strided 1x1 convolutions of 4 channels are wrong (seen on AVX2).
        raise InputError(f"base_width must be a multiple of 8, got {base_width}")
    if multi_grid is not None and not (
        len(multi_grid) >= depths[-1] and all(1 <= f <= _MAX_GRID_FACTOR for f in multi_grid)
    ):
        raise InputError(
            f"multi_grid must be {depths[-1]} factors in 1..{_MAX_GRID_FACTOR}, one per block of "
            f"stage 4, got {list(multi_grid)}"
        )


# Block and depths of the four stages.
RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
