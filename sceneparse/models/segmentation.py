"""Segmentation models: a backbone, a head and, for training, an auxiliary head."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import save_file
from torch import Tensor, nn

from sceneparse.errors import InputError, refusing, unknown_name
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.layers.attention import ATTENTION
from sceneparse.layers.blocks import resize
from sceneparse.layers.norms import NORMS, set_norms
from sceneparse.layers.pooling import MixedPooling
from sceneparse.models.description import Described, check_description
from sceneparse.models.heads import HEADS, AuxiliaryHead, validate_head_options
from sceneparse.models.pretrained import load_pretrained
from sceneparse.models.resnet import RESNETS, Places, ResNet, Stem
from sceneparse.models.stored import CONFIG_FILE, MODEL_FILE
from sceneparse.models.timm_backbone import TimmBackbone
from sceneparse.models.weights import read_weights, rebuild

_DOWNLOAD_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")


class SegmentationNetwork(nn.Module, Described):
    """A network from images to logits: a model, or a file that was exported from one.

    `precision`: the only precision that the network computes in; None: it can be chosen.
    `device_types`: the devices that it runs on. `align_corners`: how its logits are enlarged to the
    image; networks of this package align the corners, others may not. `gives_confidence`: whether
    it gives logits, and not labels only.
    Shape: (B, 3, H, W) normalised images, with `upsample=False` -> {"out": (B, K, h, w)}
    """

    precision: str | None = None
    device_types: tuple[str, ...] = ("cpu", "cuda", "mps")
    align_corners: bool = True
    gives_confidence: bool = True
    # Heights and widths of images must be multiples of the first, and within the others.
    size_multiple: int = 1
    min_size: int = 1
    max_size: int | None = None

    @property
    def output_stride(self) -> int:
        """Input pixels per logit."""
        raise NotImplementedError

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest size that the network takes and an image of this size fits in.

        Raises InputError if there is none.
        """
        unit, largest = self.size_multiple, self.max_size
        if largest is not None and max(height, width) > largest:
            raise InputError(
                f"the network takes images of {largest}x{largest} at most, got {height}x{width}; "
                f"use crops and windows (protocol slide) of {largest}x{largest} or another backbone"
            )
        rows, columns = (max(side, self.min_size) for side in (height, width))
        return -(-rows // unit) * unit, -(-columns // unit) * unit

    def require_features(self, height: int, width: int, what: str) -> None:
        """Raise InputError if crops or windows of a size have fewer than 2x2 features."""
        least = self.output_stride + 1
        if min(height, width) < least:
            rows, columns = self.fitting_size(max(height, least), max(width, least))
            raise InputError(
                f"{what} {height}x{width} is too small: the network has a feature per "
                f"{self.output_stride}x{self.output_stride} pixels; use {rows}x{columns} or larger"
            )

    def require_fit(self, height: int, width: int, what: str) -> None:
        """Raise InputError if the network does not take images of a size; `what` has this size."""
        rows, columns = self.fitting_size(height, width)
        if (rows, columns) == (height, width):
            return
        unit = self.size_multiple
        smaller = self.fitting_size(*(max(side // unit, 1) * unit for side in (height, width)))
        sizes = {f"{smaller[0]}x{smaller[1]}": None, f"{rows}x{columns}": None}
        least = f" from {self.min_size}" if self.min_size > unit else ""
        raise InputError(
            f"{what} {height}x{width} does not fit the network, which takes multiples of "
            f"{unit}{least}: use {' or '.join(sizes)}"
        )


class SegmentationModel(SegmentationNetwork, ModelHubMixin, library_name="sceneparse"):
    """A backbone of four maps, a head and, in training mode only, an auxiliary head.

    `save_pretrained`, `push_to_hub` and `from_pretrained` (a folder or a repository of the Hugging
    Face hub) are huggingface_hub's.

    Shape: (B, 3, H, W) normalised images -> {"out": (B, K, H, W)} and, in training, "aux" alike;
    with `upsample=False` (B, K, h, w), at the head's stride
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, aux_head: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        self.size_multiple = getattr(backbone, "size_multiple", 1)
        self.min_size = getattr(backbone, "min_size", 1)
        self.max_size = getattr(backbone, "max_size", None)
        self.meta = {}
        self._frozen: list[nn.Module] = []

    def freeze_stages(self, count: int) -> None:
        """Freeze stem and first `count` stages of the backbone: weights and batch statistics."""
        if count:
            self._freeze(self.backbone.first_stages(count))  # type: ignore[operator]

    def freeze_norms(self) -> None:
        """Freeze weights and statistics of the backbone's batch norms, outside attention blocks."""
        self._freeze(self._norms())

    def require_norms(self) -> None:
        """Raise InputError if the backbone has no batch norms that can be frozen."""
        if not self._norms():
            raise InputError(
                f"norm: frozen keeps the backbone's batch norms as they are, and "
                f"'{self.meta['model']['backbone']}' has none; use norm: batch"
            )

    def _norms(self) -> list[nn.Module]:
        """Return the backbone's batch norms outside attention blocks."""
        return [
            module
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and "attention" not in name.split(".")
        ]

    def _freeze(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            module.requires_grad_(False)
            module.eval()
            self._frozen.append(module)

    def train(self, mode: bool = True) -> SegmentationModel:
        """Switch between training and evaluation mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, save_directory / MODEL_FILE)
        text = json.dumps(self.meta, indent=1)
        (save_directory / CONFIG_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, place: str | Path, **options: Any) -> SegmentationModel:  # type: ignore[override]  # noqa: ANN401
        """Load a model from a folder or a repository of the hub; raises InputError.

        `options`: huggingface_hub's, for downloads.
        """
        # The hub's own code reads config.json too, and trusts it.
        with refusing(place, "holds no model of ours"):
            return super().from_pretrained(place, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> SegmentationModel:  # noqa: ANN401
        folder = Path(model_id)
        if not folder.is_dir():
            known = {k: v for k, v in options.items() if k in _DOWNLOAD_OPTIONS}
            folder = Path(snapshot_download(model_id, **known))
        config = folder / CONFIG_FILE
        meta = check_description(read_json(config, MAX_DESCRIPTION), config)
        weights = read_weights(folder / MODEL_FILE)
        model = rebuild(create_segmentation_model, meta["model"], weights, str(folder))
        model.meta = meta
        return model.eval()

    @property
    def output_stride(self) -> int:
        """Input pixels per logit."""
        return int(self.backbone.output_stride)  # type: ignore[arg-type]

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        if max(self.size_multiple, self.min_size) > 1 and not torch.compiler.is_exporting():
            self.require_fit(images.shape[-2], images.shape[-1], "an image of")
        maps = self.backbone(images)
        outputs: dict[str, Tensor] = {"out": self.head(maps)}
        if self.training and self.aux_head is not None:
            outputs["aux"] = self.aux_head(maps)
        if not upsample:
            return outputs
        return {name: resize(logits, images.shape[-2:]) for name, logits in outputs.items()}


def create_segmentation_model(  # noqa: PLR0913 - keyword-only settings of one builder
    head: str = "strip_pooling",
    backbone: str = "resnet50",
    num_classes: int = 19,
    *,
    strip_pooling: bool | None = None,
    attention: str | None = None,
    attention_places: Places = "spnet",
    aux: bool = True,
    output_stride: int = 8,
    width: int | None = None,
    head_options: Mapping[str, Any] | None = None,
    norm: str = "batch",
    zero_init_residual: bool = False,
    stem: Stem = "deep",
    base_width: int = 64,
    multi_grid: tuple[int, ...] | None = (1, 2, 4),
    pretrained: str | Path | None = None,
) -> SegmentationModel:
    """Build a segmentation model, randomly initialised; the defaults are SPNet-50.

    `head`: a name of HEADS. `backbone`: resnet18/34/50/101/152, or the name of a timm model.
    `attention`: the blocks inside ResNets, a name of ATTENTION; None: strip_pooling in ResNets,
    none in timm models. `attention_places`: "spnet" (the paper's residual blocks) or "all".
    `strip_pooling`: True is short for attention="strip_pooling", False for attention="none".
    `aux`: add an auxiliary head on stage 3, for training. `output_stride`: 8, 16 or 32. `width`:
    channels inside the head; None: the head's default. `head_options`: options of the head, listed
    by its class. `norm`: a name of NORMS. `zero_init_residual`: mixed pooling modules start as the
    identity, which learns faster from few images. `stem`, `base_width`, `multi_grid`: for ResNets,
    see there. `pretrained`: weights to start from: "imagenet", a file, or the folder of a run (see
    load_pretrained). Raises InputError.
    """
    arguments = {key: value for key, value in locals().items() if key != "pretrained"}
    for kind, name, table in (("head", head, HEADS), ("norm", norm, NORMS)):
        if name not in table:
            raise unknown_name(kind, name, table)
    if num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {num_classes}")
    attention = _attention_name(strip_pooling, attention, backbone)
    features = _create_backbone(arguments, attention)
    main_head = _create_head(arguments, features)
    aux_head = AuxiliaryHead(features.channels, num_classes) if aux else None
    model = SegmentationModel(features, main_head, aux_head)
    model.meta["model"] = arguments
    if isinstance(features, TimmBackbone) and features.pyramid is not None:
        features.pyramid.freeze_unused([main_head, *([aux_head] if aux_head else [])])
    if zero_init_residual:
        _zero_mixed_pooling(main_head)
    set_norms(model, norm)
    if pretrained is not None:
        load_pretrained(model, pretrained)
    if norm == "frozen":
        model.require_norms()
        model.freeze_norms()
    return model


def _create_backbone(arguments: Mapping[str, Any], attention: str) -> ResNet | TimmBackbone:
    """Build the backbone from the arguments of the whole model."""
    name, output_stride = arguments["backbone"], arguments["output_stride"]
    if name not in RESNETS:
        return TimmBackbone(name, output_stride=output_stride)
    names = ("multi_grid", "stem", "base_width", "attention_places")
    settings = {key: arguments[key] for key in names}
    return ResNet(
        *RESNETS[name],
        output_stride=output_stride,
        attention=ATTENTION[attention],
        **settings,
    )


def _create_head(arguments: Mapping[str, Any], features: ResNet | TimmBackbone) -> nn.Module:
    """Build the head from the arguments of the whole model."""
    name = arguments["head"]
    options = arguments["head_options"] or {}
    validate_head_options(name, options)
    head = HEADS[name](
        features.channels,
        arguments["num_classes"],
        width=arguments["width"],
        output_stride=arguments["output_stride"],
        **options,
    )
    if getattr(head, "needs_details", False) and features.strides[0] != 4:
        raise InputError(
            f"the decoder of head '{name}' needs a map of stride 4, and the first map of backbone "
            f"'{arguments['backbone']}' has stride {features.strides[0]}; choose another backbone "
            "or a head without a decoder, such as strip_pooling"
        )
    return head


def _zero_mixed_pooling(head: nn.Module) -> None:
    """Initialise mixed pooling as the identity (Goyal et al., arXiv 1706.02677)."""
    for module in head.modules():
        if isinstance(module, MixedPooling):
            nn.init.zeros_(module.fuse[1].weight)  # type: ignore[arg-type]


def has_mixed_pooling(head: nn.Module) -> bool:
    """Return whether `zero_init_residual` changes anything in a head."""
    return any(isinstance(module, MixedPooling) for module in head.modules())


def _attention_name(strip_pooling: bool | None, attention: str | None, backbone: str) -> str:
    """Return a name of ATTENTION from the two ways to ask for one, or the default."""
    if strip_pooling is not None and attention is not None:
        raise InputError("give strip_pooling or attention, not both")
    if attention is None:
        wanted = backbone in RESNETS if strip_pooling is None else strip_pooling
        attention = "strip_pooling" if wanted else "none"
    if attention != "none" and backbone not in RESNETS:
        raise InputError(
            f"attention blocks go into ResNets, not into timm's '{backbone}'; "
            "set model.attention: none (the head still pools strips)"
        )
    if attention not in ATTENTION:
        raise unknown_name("attention", attention, ATTENTION)
    return attention
