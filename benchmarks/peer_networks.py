"""The networks of `benchmarks peers`, other toolkits' and ours, at random weights.

Each runs as its documentation says: in evaluation mode, in float32, and until its logits have the
size of the image. Networks of segmentation_models.pytorch (SMP) and torchvision and ours enlarge
them themselves; those of SegFormer and of ONNX files are enlarged after the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.infer import CLASSES, export
from sceneparse.config.loading import load_config
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.synthetic import render_scene
from sceneparse.errors import InputError
from sceneparse.inference.any_network import AnyNetwork
from sceneparse.inference.networks import OnnxNetwork
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.prepare import prepare_for_inference
from sceneparse.models import create_segmentation_model
from sceneparse.models.heads import HEADS
from sceneparse.models.published_resnets import IMAGENET_STATISTICS
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.training.segmentation import model_arguments

# SMP's builders by our names for them, and its names of the backbones.
_SMP = {"unet": "Unet", "deeplabv3plus": "DeepLabV3Plus", "upernet": "UPerNet"}
_SMP_ENCODERS = {"mobilenetv2_100": "tu-mobilenetv2_100", "resnet50": "resnet50"}
_TORCHVISION = (
    *("deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"),
    *("fcn_resnet50", "lraspp_mobilenet_v3_large"),
)
# The recipe of our networks on MobileNetV2.
RECIPE = "camvid_mobilenet"
# The networks of ours that are exported too.
_EXPORTED = {"sceneparse:strip_pooling:resnet50", "sceneparse:strip_pooling_plus:mobilenetv2_100"}
_ONNX = ("onnx", "int8")
# What toolkits and forms need: the packages, and what pip calls them.
_PACKAGES = {
    "smp": (("segmentation_models_pytorch",), "'segmentation-models-pytorch==0.6.*'"),
    "transformers": (("transformers",), "transformers"),
    **dict.fromkeys(_ONNX, (("onnx", "onnxscript", "onnxruntime"), "'sceneparse[export]'")),
}


@dataclass(frozen=True)
class Peer:
    """A network to compare: TOOLKIT:NETWORK:BACKBONE, and what builds it for a number of classes.

    `form`: "eager", or of ours also "prepared" (prepare_for_inference), "onnx" and "int8" (ONNX
    Runtime).
    """

    network: str
    create: Callable[[int], nn.Module]
    form: str = "eager"

    @property
    def name(self) -> str:
        """The name of the network, and its form unless that is eager."""
        return self.network if self.form == "eager" else f"{self.network}:{self.form}"

    @property
    def toolkit(self) -> str:
        """The toolkit that builds the network."""
        return self.network.partition(":")[0]

    def file(self, folder: Path) -> Path:
        """Return the ONNX file of the network in a folder."""
        return folder / f"{self.name.replace(':', '-')}.onnx"


def all_peers() -> list[Peer]:
    """Return every network in each of its forms."""
    others = [
        Peer(f"smp:{name}:{backbone}", partial(_create_smp, builder, encoder))
        for name, builder in _SMP.items()
        for backbone, encoder in _SMP_ENCODERS.items()
    ]
    others += [
        Peer(f"torchvision:{name}", partial(_create_torchvision, name)) for name in _TORCHVISION
    ]
    others.append(Peer("transformers:segformer_b0", _create_segformer))
    ours = [our_peer(head, arguments) for head in HEADS for arguments in _arguments(head)]
    return [*others, *(form for peer in ours for form in forms_of(peer))]


def our_peer(name: str, arguments: Mapping[str, Any]) -> Peer:
    """Return a network of ours by the arguments of create_segmentation_model."""
    create = partial(_create_ours, dict(arguments))
    return Peer(f"sceneparse:{name}:{arguments['backbone']}", create)


def forms_of(peer: Peer) -> list[Peer]:
    """Return a network of ours in all forms that are measured."""
    forms = ("eager", "prepared", *(_ONNX if peer.network in _EXPORTED else ()))
    return [replace(peer, form=form) for form in forms]


def _arguments(head: str) -> list[dict[str, Any]]:
    """Return the arguments of a head's network on ResNet-50, and on MobileNetV2 as in RECIPE.

    As in `benchmarks heads`, ResNet-50 is without attention blocks, except that of SPNet-50.
    """
    attention = "strip_pooling" if head == "strip_pooling" else "none"
    on_resnet = {"head": head, "backbone": "resnet50", "attention": attention, "aux": False}
    recipe = find_config(RECIPE, Path())
    config = load_config(recipe, (), SegConfig)
    if head != config.model.head:
        changes = [f"model.head={head}", "model.head_options={}"]
        config = load_config(recipe, changes, SegConfig)
    return [on_resnet, model_arguments(config, CLASSES)]


def _create_smp(builder: str, encoder: str, num_classes: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    network: nn.Module = getattr(smp, builder)(encoder, encoder_weights=None, classes=num_classes)
    return network


def _create_torchvision(name: str, num_classes: int) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes
    )
    return network


def _create_segformer(num_classes: int) -> nn.Module:
    library: Any = import_module("transformers")
    # The defaults of the configuration are those of B0.
    config = library.SegformerConfig(num_labels=num_classes)
    network = library.SegformerForSemanticSegmentation(config)
    return Enlarged(AnyNetwork(network, [f"class {k}" for k in range(num_classes)]))


def _create_ours(arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    return create_segmentation_model(**{**arguments, "num_classes": num_classes})


class Enlarged(nn.Module):
    """A network whose logits are enlarged to the image after it.

    Shape: (B, 3, H, W) -> (B, K, H, W)
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of the size of the images."""
        logits = self.network(images, upsample=False)["out"]
        return F.interpolate(
            logits, images.shape[-2:], mode="bilinear", align_corners=self.network.align_corners
        )


def check_installed(peers: Sequence[Peer]) -> None:
    """Raise InputError that names the command for a package that a network needs."""
    for peer in peers:
        packages, pip_name = _PACKAGES.get(peer.toolkit) or _PACKAGES.get(peer.form) or ((), "")
        for package in packages:
            if find_spec(package) is None:
                raise InputError(
                    f"{peer.name} needs {package}, which is not installed; run: "
                    f"pip install {pip_name}, or choose other networks with --only"
                )


def build(peer: Peer, num_classes: int, files: Path) -> nn.Module:
    """Build a network in its form, in evaluation mode; ONNX files are read from a folder."""
    if peer.form in _ONNX:
        return Enlarged(OnnxNetwork(peer.file(files)))
    torch.manual_seed(0)
    network = peer.create(num_classes).eval()
    return prepare_for_inference(network) if peer.form == "prepared" else network


def write_files(peers: Sequence[Peer], images: Tensor, folder: Path) -> None:
    """Export the networks that have the form of an ONNX file to a folder."""
    for network in {peer.network: peer for peer in peers if peer.form in _ONNX}.values():
        model: Any = build(replace(network, form="eager"), CLASSES, folder)
        export(model, images, *(replace(network, form=form).file(folder) for form in _ONNX))


def fitted_image(network: nn.Module, size: tuple[int, int]) -> Tensor:
    """Draw a street scene (1, 3, h, w), normalised, extended to a size that the network takes."""
    height, width = size
    scene, _ = render_scene(height, width, seed=0, index=0)
    pixels = torch.from_numpy(scene).permute(2, 0, 1)[None]
    image = Normalization(*IMAGENET_STATISTICS)(pixels)
    if isinstance(network, SegmentationNetwork):
        rows, columns = network.fitting_size(height, width)
    else:
        # Networks of SMP take multiples of their encoder's stride only.
        unit = int(getattr(getattr(network, "encoder", None), "output_stride", 1))
        rows, columns = (-(-side // unit) * unit for side in size)
    return F.pad(image, (0, columns - width, 0, rows - height))


def image_of(peer: Peer, network: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return the picture as a network takes it: extended to its multiple, in its layout."""
    image = fitted_image(network, size)
    is_last = peer.form == "prepared"
    return image.contiguous(memory_format=torch.channels_last) if is_last else image
