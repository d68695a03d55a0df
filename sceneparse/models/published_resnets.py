"""Conversion of published ResNet classifiers: their tensors under our names.

Public code calls the classifier `linear` (CIFAR) or `fc` (ImageNet), and a shortcut `shortcut` or
`downsample`; all else is named as in our backbone.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from sceneparse.errors import InputError, first_few
from sceneparse.models.classification import CIFAR_RESNETS
from sceneparse.models.resnet import RESNETS, Bottleneck
from sceneparse.models.weights import State, unwrap_state

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
# Mean and standard deviation that the publishers normalised images with: of ImageNet, also in the
# usual code for resnet20 to resnet110, and of CIFAR-10, in that for resnet18 and larger.
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CLASSIFIERS = ("linear.", "fc.")
_NAMES = re.compile(r"(conv1|bn1|layer\d\.\d+\.(conv\d|bn\d|downsample\.\d))\.\w+")


def is_resnet_classifier(state: Mapping[str, Any]) -> bool:
    """Return whether tensors have the names of a published ResNet classifier."""
    return "conv1.weight" in state and any(f"{name}weight" in state for name in _CLASSIFIERS)


def convert_resnet_classifier(state_dict: Mapping[str, Any]) -> State:
    """Rename the tensors of a published ResNet classifier to those of `create_classifier`.

    They may be inside a `state_dict` or `net` key and have `module.` before every name. Raises
    InputError for tensors of another network.
    """
    state = unwrap_state(state_dict, "the state dict")
    converted, unknown = State(), []
    for name, tensor in state.items():
        own = name.replace(".shortcut.", ".downsample.")
        if name.startswith(_CLASSIFIERS):
            converted[f"classifier.{name.partition('.')[2]}"] = tensor
        elif _NAMES.fullmatch(own):
            converted[f"backbone.{own}"] = tensor
        else:
            unknown.append(name)
    if unknown or not is_resnet_classifier(state):
        raise InputError(
            f"not a published ResNet classifier: {first_few(unknown) or 'it has no classifier'}"
        )
    # Files of before PyTorch 0.4.1 lack the counters of batch norms, which nothing reads.
    for name in [name for name in converted if name.endswith(".running_mean")]:
        converted.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return converted


def describe_resnet_classifier(state: State) -> dict[str, Any]:
    """Return the description of converted weights: builder's arguments, classes, normalisation.

    Ten classes are those of CIFAR-10; the names of others are not in the file.
    """
    blocks = {tuple(key.split(".")[1:3]) for key in state if ".layer" in key}
    stages = [stage for stage, _ in blocks]
    depths = tuple(stages.count(f"layer{number}") for number in range(1, len(set(stages)) + 1))
    has_bottlenecks = any(".conv3." in key for key in state)
    names = [
        *(name for name, depth in CIFAR_RESNETS.items() if depths == (depth,) * 3),
        *(
            name
            for name, (block, known) in RESNETS.items()
            if known == depths and has_bottlenecks == (block is Bottleneck)
        ),
    ]
    if not names:
        raise InputError(
            f"no ResNet of ours has {list(depths)} blocks in its stages; there are: "
            f"{', '.join([*CIFAR_RESNETS, *RESNETS])}"
        )
    num_classes = len(state["classifier.weight"])
    stem = "imagenet" if state["backbone.conv1.weight"].shape[-1:] == (7,) else "cifar"
    is_cifar = stem == "cifar" and names[0] not in CIFAR_RESNETS
    mean, std = CIFAR_STATISTICS if is_cifar else IMAGENET_STATISTICS
    meta = {
        "task": "classification",
        "model": {"model": names[0], "num_classes": num_classes, "attention": "none", "stem": stem},
        "mean": list(mean),
        "std": list(std),
    }
    if num_classes == len(CIFAR10_CLASSES):
        meta |= {"classes": list(CIFAR10_CLASSES), "data": {"dataset": "cifar10", "root": "data"}}
    return meta
