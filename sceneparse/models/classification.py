"""Classification networks: the backbones of segmentation with a linear classifier, or timm's."""

from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn

from sceneparse.errors import InputError, unknown_name
from sceneparse.layers.attention import ATTENTION
from sceneparse.models.description import Described
from sceneparse.models.origin import validate_tag
from sceneparse.models.pretrained import load_pretrained
from sceneparse.models.resnet import RESNETS, BasicBlock, ResNet

# Blocks in each of the three stages (He et al., CVPR 2016, section 4.2).
CIFAR_RESNETS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
STEMS: dict[str, Literal["cifar", "plain"]] = {"cifar": "cifar", "imagenet": "plain"}
_TIMM = "timm:"


class Classifier(nn.Module, Described):
    """A network from normalised images (B, 3, H, W) to logits (B, K), with its `meta`."""


class ClassificationModel(Classifier):
    """A backbone, the mean over the pixels of its last map, and a linear layer.

    Shape: (B, 3, H, W) normalised images -> logits (B, K)
    """

    def __init__(self, backbone: ResNet, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images)[-1].mean(dim=(2, 3)))


class TimmClassifier(Classifier):
    """A classification network of timm, randomly initialised. Raises InputError.

    Shape: (B, 3, H, W) normalised images -> logits (B, K)
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise InputError(f"timm has no model '{name}'; see timm.list_models()")
        validate_tag(name)
        self.network = timm.create_model(name, num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def create_classifier(
    model: str = "resnet18",
    num_classes: int = 10,
    *,
    attention: str = "none",
    stem: str = "cifar",
    pretrained: str | Path | None = None,
) -> Classifier:
    """Build a classification network, randomly initialised.

    `model`: resnet18/34/50/101/152, resnet20/32/44/56/110 (three stages of 16 to 64 channels) or
    timm:NAME. `attention`: a name of ATTENTION, in every residual block after its second norm (in
    bottlenecks that of the 3x3 convolution). `stem`: "cifar" (3x3, stride 1, no pooling) or
    "imagenet" (7x7, stride 2, max pooling). `pretrained`: weights to start from: "imagenet", a
    file, or the folder of a run (see load_pretrained). Raises InputError.
    """
    arguments = {key: value for key, value in locals().items() if key != "pretrained"}
    if attention not in ATTENTION:
        raise unknown_name("attention", attention, ATTENTION)
    if stem not in STEMS:
        raise unknown_name("stem", stem, STEMS)
    if num_classes < 2:
        raise InputError(f"num_classes must be at least 2, got {num_classes}")
    if model.startswith(_TIMM):
        if attention != "none":
            raise InputError("attention blocks go into ResNets, not into timm's models")
        network: Classifier = TimmClassifier(model.removeprefix(_TIMM), num_classes)
    else:
        network = ClassificationModel(_backbone(model, attention, stem), num_classes)
    network.meta = {"model": arguments}
    if pretrained is not None:
        load_pretrained(network, pretrained)
    return network


def _backbone(model: str, attention: str, stem: str) -> ResNet:
    settings: dict[str, Any] = {
        "output_stride": 32,
        "multi_grid": None,
        "stem": STEMS[stem],
        "attention": ATTENTION[attention],
        "attention_places": "all",
    }
    if model in RESNETS:
        return ResNet(*RESNETS[model], **settings)
    if model not in CIFAR_RESNETS:
        raise unknown_name("model", model, [*RESNETS, *CIFAR_RESNETS, f"{_TIMM}NAME"])
    if stem != "cifar":
        raise InputError(f"{model} is made for small images; it has the stem cifar only")
    depths = (CIFAR_RESNETS[model],) * 3
    return ResNet(BasicBlock, depths, base_width=16, padded_shortcuts=True, **settings)
