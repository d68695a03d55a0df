"""Segmentation heads: the four maps of a backbone -> logits.

A head is any module with the constructor `Head(channels, num_classes, *, width=None,
output_stride=8, **options)`: channels of the four maps, channels inside the head (None: its own
default), output stride of the backbone, and options of its own, which its class attribute `options`
lists. Add your own to HEADS at the bottom.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sceneparse.errors import InputError, unknown_name
from sceneparse.layers.blocks import ConvNormAct, conv3x3, resize
from sceneparse.layers.pooling import AtrousPyramid, MixedPooling, PyramidPooling, StripPooling

# The allowed values of each option, the default first.
Options = Mapping[str, Sequence[Any]]


class Head(nn.Module):
    """The base of the heads below: their features, then dropout and a 1x1 classifier.

    A head defines `build`, which creates its layers and returns the channels of its features, and,
    unless they are `project` after `pool` of the last map, `features`, which computes them.
    `options`: what else `build` takes. `needs_details`: it joins the first map, of stride 4.
    Shape: maps (B, channels[i], h_i, w_i) -> (B, num_classes, h, w), the size of the last map, or
    of the first in heads with a decoder
    """

    options: ClassVar[Options] = {}
    needs_details = False
    dropout = 0.1
    # From channels of the maps, width and output stride, and options, to channels of the features.
    build: Callable[..., int]
    pool: nn.Module
    project: nn.Module

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        output_stride: int = 8,
        **options: Any,  # noqa: ANN401 - of the types in `options`
    ) -> None:
        super().__init__()
        defaults = {name: values[0] for name, values in self.options.items()}
        in_channels = self.build(channels, width, output_stride, **{**defaults, **options})
        # The last layer to be created: the order decides which random numbers a layer gets.
        classifier = nn.Conv2d(in_channels, num_classes, 1)
        self.classifier = (
            nn.Sequential(nn.Dropout2d(self.dropout), classifier) if self.dropout else classifier
        )

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        return self.project(self.pool(maps[3]))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.features(maps))


def _validate_width(width: int) -> None:
    """Raise InputError unless a width splits into the four branches of mixed pooling."""
    if width % 4:
        raise InputError(f"model.width must be a multiple of 4 for this head, got {width}")


class StripPoolingHead(Head):
    """SPNet's head: two mixed pooling modules (Hou et al., CVPR 2020, section 4.1).

    `width`: channels of the mixed pooling modules; None: half of the last map's.
    """

    short, long = True, True  # the ranges of mixed pooling

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = channels[3] // 2 if width is None else width
        _validate_width(width)
        self.reduce = ConvNormAct(channels[3], width, 1)
        self.mixed1 = MixedPooling(width, short=self.short, long=self.long)
        self.mixed2 = MixedPooling(width, short=self.short, long=self.long)
        self.project = ConvNormAct(width, width // 2, 3)
        return width // 2

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.reduce(maps[3])  # (B, width, h, w)
        return self.project(self.mixed2(self.mixed1(x)))  # (B, width / 2, h, w)


class ShortRangeHead(StripPoolingHead):
    """SPNet's head without strip pooling, of the ablation of the paper."""

    long = False


class LongRangeHead(StripPoolingHead):
    """SPNet's head without pyramid pooling, of the ablation of the paper."""

    short = False


class FCNHead(Head):
    """One 3x3 convolution and a classifier, on the last map (Long et al., CVPR 2015).

    `width`: channels between the two; None: a quarter of the map's.
    """

    map_index = 3

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        in_channels = channels[self.map_index]
        width = in_channels // 4 if width is None else width
        self.project = ConvNormAct(in_channels, width, 3)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        return self.project(maps[self.map_index])


class AuxiliaryHead(FCNHead):
    """The FCN head on the third map, whose loss is added in training (as in PSPNet)."""

    map_index = 2


class PSPHead(Head):
    """Pyramid pooling, a 3x3 convolution and a classifier (PSPNet, Zhao et al., CVPR 2017).

    `width`: channels of each grid and of the convolution; None: a quarter of the last map's.
    """

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = channels[3] // 4 if width is None else width
        self.pool = PyramidPooling(channels[3], width)
        self.project = ConvNormAct(channels[3] + 4 * width, width, 3)
        return width


def _rates(output_stride: int) -> tuple[int, ...]:
    """Return the dilations of ASPP: 12, 24, 36 at output stride 8, in proportion at others."""
    return tuple(rate * 8 // output_stride for rate in (12, 24, 36))


class DeepLabV3Head(Head):
    """ASPP, a 3x3 convolution and a classifier (Chen et al., arXiv 1706.05587).

    `width`: channels of both; None: 256.
    """

    dropout = 0.0

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = 256 if width is None else width
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride))
        self.project = ConvNormAct(width, width, 3)
        return width


def _detail_width(width: int) -> int:
    """Return the channels that the first map is reduced to: 48 for 256, in proportion if fewer."""
    return min(48, max(width * 48 // 256, 1))


class DeepLabV3PlusHead(Head):
    """ASPP joined with the details of the first map, at stride 4 (Chen et al., ECCV 2018).

    `width`: channels of ASPP and decoder; None: 256. The first map is reduced to 48 channels, as
    published, or fewer in proportion to `width`. `separable`: 3x3 convolutions are separable, as
    published, or plain.
    """

    options: ClassVar[Options] = {"separable": (True, False)}
    needs_details = True

    def build(
        self,
        channels: Sequence[int],
        width: int | None,
        output_stride: int,
        *,
        separable: bool = True,
    ) -> int:
        width = 256 if width is None else width
        detail_width = _detail_width(width)
        self.pool = AtrousPyramid(channels[3], width, _rates(output_stride), separable=separable)
        self.details = ConvNormAct(channels[0], detail_width, 1)
        self.decode = nn.Sequential(
            conv3x3(width + detail_width, width, separable=separable),
            conv3x3(width, width, separable=separable),
        )
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        details = self.details(maps[0])
        context = resize(self.pool(maps[3]), details.shape[-2:])
        return self.decode(torch.cat([context, details], dim=1))


class StripPoolingPlusHead(Head):
    """Mixed pooling joined with the details of the first map, at stride 4, at a low cost.

    The context of SPNet's head in a decoder like DeepLabV3+'s, but half as wide. `width`: channels
    of the context; None: 256. Options, each for an ablation: `context`, what gathers it: mixed
    pooling, its halves (pyramid, strip), ASPP or nothing; `modules`, how many mixed pooling modules
    follow each other; `decoder`, without which the logits have the stride of the last map;
    `fine_strip`, a strip pooling module at stride 4, for long thin things.
    """

    options: ClassVar[Options] = {
        "context": ("mixed", "strip", "pyramid", "aspp", "none"),
        "modules": (2, 1),
        "decoder": (True, False),
        "fine_strip": (False, True),
    }

    def build(
        self,
        channels: Sequence[int],
        width: int | None,
        output_stride: int,
        *,
        context: str = "mixed",
        modules: int = 2,
        decoder: bool = True,
        fine_strip: bool = False,
    ) -> int:
        width = 256 if width is None else width
        _validate_width(width)
        if fine_strip and not decoder:
            raise InputError("model.head_options.fine_strip needs decoder: true")
        self.needs_details = decoder
        self.pool = _context(context, channels[3], width, modules, output_stride)
        detail_width = _detail_width(width)
        width = width // 2
        self.project = conv3x3(2 * width, width, separable=True)
        if not decoder:
            return width
        self.details = ConvNormAct(channels[0], detail_width, 1)
        self.join = conv3x3(width + detail_width, width, separable=True)
        self.fine = StripPooling(width) if fine_strip else nn.Identity()
        self.refine = conv3x3(width, width, separable=True)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.project(self.pool(maps[3]))  # (B, width / 2, h, w)
        if not self.needs_details:
            return x
        details = self.details(maps[0])
        joined = self.join(torch.cat([resize(x, details.shape[-2:]), details], dim=1))
        return self.refine(self.fine(joined))  # (B, width / 2, h_0, w_0)


# What mixed pooling uses in each kind of context: its short range, its long range.
_RANGES = {"mixed": (True, True), "pyramid": (True, False), "strip": (False, True)}


def _context(kind: str, channels: int, width: int, modules: int, output_stride: int) -> nn.Module:
    """Return what gathers the context of a map: (B, channels, h, w) -> (B, width, h, w)."""
    if modules == 1 and kind not in _RANGES:
        raise InputError(
            "model.head_options.modules counts mixed pooling modules, of which context "
            f"'{kind}' has none; remove it"
        )
    if kind == "aspp":
        return AtrousPyramid(channels, width, _rates(output_stride), separable=True)
    layers: list[nn.Module] = [ConvNormAct(channels, width, 1)]
    if kind in _RANGES:
        short, long = _RANGES[kind]
        layers += [MixedPooling(width, short=short, long=long) for _ in range(modules)]
    return nn.Sequential(*layers)


class UPerHead(Head):
    """A feature pyramid over all four maps, pyramid pooling at its top (Xiao et al., ECCV 2018).

    `width`: channels of all levels; None: a quarter of the last map's.
    """

    def build(self, channels: Sequence[int], width: int | None, output_stride: int) -> int:
        width = channels[3] // 4 if width is None else width
        self.pool = PyramidPooling(channels[3], width)
        self.top = ConvNormAct(channels[3] + 4 * width, width, 3)
        self.laterals = nn.ModuleList(ConvNormAct(c, width, 1) for c in channels[:3])
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3) for _ in range(3))
        self.project = ConvNormAct(4 * width, width, 3)
        return width

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        above = self.top(self.pool(maps[3]))
        levels = [above]
        for stage in (2, 1, 0):
            lateral = self.laterals[stage](maps[stage])
            above = lateral + resize(above, lateral.shape[-2:])
            levels.insert(0, self.smooth[stage](above))
        size = levels[0].shape[-2:]
        return self.project(torch.cat([resize(level, size) for level in levels], dim=1))


HEADS: dict[str, Callable[..., nn.Module]] = {
    "strip_pooling": StripPoolingHead,
    "strip_pooling_short": ShortRangeHead,
    "strip_pooling_long": LongRangeHead,
    "fcn": FCNHead,
    "psp": PSPHead,
    "deeplabv3": DeepLabV3Head,
    "deeplabv3plus": DeepLabV3PlusHead,
    "strip_pooling_plus": StripPoolingPlusHead,
    "upernet": UPerHead,
}


def validate_head_options(head: str, given: Mapping[str, Any]) -> None:
    """Raise InputError, with what is allowed, for options that a head of HEADS does not take."""
    options: Options = getattr(HEADS[head], "options", {})
    for name, value in given.items():
        if not options:
            raise InputError(f"head '{head}' has no options; remove model.head_options.{name}")
        if name not in options:
            raise unknown_name(f"option of head '{head}'", name, options)
        # As JSON, since True equals 1, and files have lists for tuples.
        allowed = [*map(json.dumps, options[name])]
        if json.dumps(value, default=repr) not in allowed:
            raise InputError(
                f"model.head_options.{name} must be one of {', '.join(allowed)}, got {value!r}"
            )
