"""Networks of segmentation_models.pytorch (SMP), and the training of SMP's CamVid example.

SMP: https://github.com/qubvel-org/segmentation_models.pytorch, 0.6. Its example
(examples/camvid_segmentation_multiclass.ipynb) trains with Dice, Adam at 2e-4, a cosine to 1e-5
after each step, and the augmentation of `example_transform`. Three things differ here: the batch
(32 there, on a GPU; here that of our recipe), the crop (320x320 of 480x360; in peers_accuracy half
of it on half the image), and unlabelled pixels (a class there; ignored here). Images are normalised
as those that the pretrained weights come from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import torch
from torch import Tensor, nn

from sceneparse.errors import InputError
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.weights import load_strict, read_weights
from sceneparse.training.optim import Stepper

try:
    import segmentation_models_pytorch as smp
except ImportError as error:
    raise InputError(
        "segmentation_models.pytorch is not installed; run: "
        "pip install 'segmentation-models-pytorch==0.6.*'"
    ) from error

ENCODER = "tu-mobilenetv2_100"
# SMP's builders, by our names for them.
PEERS: dict[str, Callable[..., nn.Module]] = {
    "smp_deeplabv3plus": smp.DeepLabV3Plus,
    "smp_unet": smp.Unet,
}
# Tensors of the classifier that come after the last feature map.
_AFTER_FEATURES = ("conv_head.", "bn2.", "classifier.")
_EXAMPLE_RATES = 2e-4, 1e-5
# The default of GaussNoise when the example was written, a variance of 10 to 50 of bytes; the
# default of albumentations 2 is 16 times as strong.
_EXAMPLE_NOISE = 0.0124, 0.0277


class PeerNetwork(SegmentationModel):
    """A network of SMP in the shape of ours: its encoder is the backbone, the rest the head.

    Its logits have the size of the image, so they need no enlargement except to undo the scale of
    an inference protocol.
    Shape: as SegmentationModel, with logits (B, K, H, W) also if `upsample` is False
    """

    align_corners = False

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - SMP has no types
        super().__init__(network.encoder, _PeerHead(network.decoder, network.segmentation_head))
        self.size_multiple = int(network.encoder.output_stride)

    @property
    def output_stride(self) -> int:
        """Input pixels per logit."""
        return 1

    def freeze_as(self, model: SegmentationModel) -> None:
        """Freeze the modules of the encoder that a model of ours on the same backbone froze."""
        ours, encoder = model.backbone.features, self.backbone.model
        assert isinstance(ours, nn.Module) and isinstance(encoder, nn.Module)
        frozen = {id(module) for module in model._frozen}
        self._freeze(
            encoder.get_submodule(name)
            for name, module in ours.named_modules()
            if id(module) in frozen
        )


class _PeerHead(nn.Module):
    """Decoder and classifier of a network of SMP.

    Shape: the maps of its encoder -> (B, K, H, W)
    """

    def __init__(self, decoder: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.decoder, self.classifier = decoder, classifier

    def forward(self, maps: list[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(self.decoder(maps))
        return logits


def create_peer(name: str, num_classes: int, weights: str | Path) -> PeerNetwork:
    """Build a network of PEERS with the weights of timm's classifier in its encoder.

    Raises InputError if a tensor of the encoder is missing in the file, or one of the file is not
    of the encoder, except those after the last feature map.
    """
    network: Any = PEERS[name](ENCODER, encoder_weights=None, classes=num_classes)
    state = {
        key: tensor
        for key, tensor in read_weights(weights).items()
        if not key.startswith(_AFTER_FEATURES)
    }
    load_strict(network.encoder.model, state, str(weights))
    return PeerNetwork(network)


def example_transform(size: tuple[int, int], crop: tuple[int, int], ignore_index: int) -> A.Compose:
    """Build the augmentation of SMP's example, on images that are first scaled to `size` (h, w).

    Pixels that it adds are black, and ignored. albumentations' Affine does here what its
    ShiftScaleRotate, which it deprecates, does in the example.
    """
    filled: dict[str, Any] = {"fill": 0, "fill_mask": ignore_index}
    shift = {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}
    return A.Compose(
        [
            A.Resize(*size, interpolation=cv2.INTER_AREA, mask_interpolation=cv2.INTER_NEAREST),
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.5, 1.5), translate_percent=shift, keep_ratio=True, p=1, **filled),
            A.RandomCrop(*crop),
            A.GaussNoise(std_range=_EXAMPLE_NOISE, p=0.2),
            A.Perspective(p=0.5, **filled),
            A.OneOf([A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)], p=0.9),
            A.OneOf(
                [A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)], p=0.9
            ),
            A.OneOf([A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)], p=0.9),
        ]
    )


def example_stepper(model: nn.Module, steps: int) -> Stepper:
    """Build the optimiser and schedule of SMP's example for a run of `steps` steps."""
    rate, last_rate = _EXAMPLE_RATES
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule: Any = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=steps, eta_min=last_rate
    )
    return Stepper(optimizer, schedule, torch.amp.GradScaler(enabled=False))


def example_loss(ignore_index: int) -> Callable[[Any, Tensor], Tensor]:
    """Return the loss of SMP's example: Dice over the classes that a batch shows."""
    dice = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=ignore_index)
    return lambda outputs, targets: dice(outputs["out"], targets.long())
