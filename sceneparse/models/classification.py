"""A classification network: the backbones of segmentation, pooled, with a linear classifier."""

from __future__ import annotations

from typing import Any, Literal

import timm
from torch import Tensor, nn

from sceneparse.errors import InputError, unknown_name
from sceneparse.layers.attention import ATTENTION
from sceneparse.models.description import Described
from sceneparse.models.resnet import RESNETS, BasicBlock, ResNet, create_resnet

_TIMM = "timm:"
STEMS: dict[str, Literal["cifar", "plain"]] = {"cifar": "cifar", "imagenet": "plain"}


class Classifier(nn.Module, Described):
    """A network from normalised images (B, 3, H, W) to logits (B, K), with its `meta`."""


class ClassificationModel(Classifier):
    """Join a backbone, a mean over the pixels of its last map, and a linear layer.

    Shape: (B, 3, H, W) normalised images -> logits (B, K)
    """

    def __init__(self, backbone: ResNet, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.channels[-1], num_classes)
        self.meta: dict[str, Any] = {}

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(images)[-1].mean(dim=(2, 3)))
        return logits


class TimmClassifier(Classifier):
    """Any classification network of timm, randomly initialised.

    Shape: (B, 3, H, W) normalised images -> logits (B, K)
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        if name not in timm.list_models():
            raise InputError(f"timm has no model '{name}'; see timm.list_models()")
        self.network = timm.create_model(name, pretrained=False, num_classes=num_classes)
        self.meta: dict[str, Any] = {}

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def create_classifier(
    model: str = "resnet18",
    num_classes: int = 10,
    *,
    attention: str = "none",
    stem: str = "cifar",
) -> Classifier:
    """Build a classification network, randomly initialised.

    model: resnet18/34/50/101/152, resnet20/32/44/56/110 (three stages of 16 to 64 channels, He et
    al., section 4.2) or timm:NAME. attention: a name of ATTENTION, in every residual block: after
    its second norm, in bottlenecks after the 3x3 convolution. stem: "cifar" (3x3, stride 1, no
    pooling) or "imagenet" (7x7, stride 2, max pooling). Raises InputError.
    """
    arguments = dict(locals())
    if attention not in ATTENTION:
        raise unknown_name("attention", attention, ATTENTION)
    if stem not in STEMS:
        raise unknown_name("stem", stem, STEMS)
    if num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {num_classes}")
    network: Classifier
    if model.startswith(_TIMM):
        if attention != "none":
            raise InputError("attention blocks go into ResNets, not into timm's models")
        network = TimmClassifier(model.removeprefix(_TIMM), num_classes)
    else:
        network = ClassificationModel(_backbone(model, attention, stem), num_classes)
    network.meta["model"] = arguments
    return network


def _backbone(model: str, attention: str, stem: str) -> ResNet:
    block = None if attention == "none" else ATTENTION[attention]
    if model in RESNETS:
        return create_resnet(
            model,
            output_stride=32,
            multi_grid=None,
            stem=STEMS[stem],
            attention=block,
            attention_places="all",
        )
    if model not in CIFAR_RESNETS:
        raise unknown_name("model", model, [*RESNETS, *CIFAR_RESNETS, f"{_TIMM}NAME"])
    if stem != "cifar":
        raise InputError(f"{model} is made for small images; it has the stem cifar only")
    return ResNet(
        BasicBlock,
        (CIFAR_RESNETS[model],) * 3,
        output_stride=32,
        multi_grid=None,
        stem="cifar",
        base_width=16,
        attention=block,
        attention_places="all",
        padded_shortcuts=True,
    )


# Blocks in each of the three stages.
CIFAR_RESNETS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
