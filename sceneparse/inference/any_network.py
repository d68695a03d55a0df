"""Networks of other libraries, and any function from images to logits or labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.data.labels import Color, palette
from sceneparse.errors import InputError, first_few, reason_of
from sceneparse.inference.networks import certain_logits, open_session
from sceneparse.models.published_resnets import IMAGENET_STATISTICS
from sceneparse.models.segmentation import SegmentationNetwork

IMAGENET_MEAN, IMAGENET_STD = IMAGENET_STATISTICS
Size = tuple[int, int]


class AnyNetwork(SegmentationNetwork):
    """A network or function of any library, for Predictor and `evaluate`.

    `predict` gets normalised images (B, 3, H, W), float32, and returns logits (B, K, h, w) or
    labels (B, H, W): as a tensor or array, as "out" or "logits" of a mapping (torchvision), or as
    an attribute `logits` (transformers). Logits are enlarged to the image, bilinearly, without
    aligned corners. `classes`, `colors`: names and RGB colours 0..255 of the classes. `mean`,
    `std`: RGB in 0..1. `multiple`: images are padded to multiples of it, at the right and bottom.
    `size`: the only height and width that the network takes; images are scaled to it.

    Shape: (B, 3, H, W) normalised images -> {"out": (B, K, h, w)}
    """

    precision = "float32"
    align_corners = False

    def __init__(
        self,
        predict: Callable[[Tensor], Any],
        classes: Sequence[str],
        *,
        colors: Sequence[Color] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        multiple: int = 1,
        size: Size | None = None,
    ) -> None:
        super().__init__()
        are_three = len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std)))
        if not are_three or min(std) <= 0:
            raise InputError(
                "mean and std take 3 numbers each, those of std above 0, got "
                f"{list(mean)} and {list(std)}"
            )
        if multiple < 1 or (size is not None and min(size) < 1):
            raise InputError(f"multiple and size must be 1 or more, got {multiple}, {size}")
        self.predict, self.size, self.size_multiple = predict, size, multiple
        if not isinstance(predict, nn.Module):
            self.device_types = ("cpu",)
        self.meta = {
            "classes": list(classes),
            "colors": [list(color) for color in colors or palette(classes)],
            "mean": list(mean),
            "std": list(std),
            "eval": {"name": "whole"},
        }

    @property
    def output_stride(self) -> int:
        """Input pixels per logit: not known, and not needed, since no corners are aligned."""
        return 1

    def forward(self, images: Tensor, upsample: bool = False) -> dict[str, Tensor]:
        """Return logits of the size that the network gives; those of labels have full size."""
        size = images.shape[-2:]
        if self.size is not None:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False)
        found = _tensor_in(self.predict(images)).to(images.device)
        count = len(self.classes)
        if found.dim() == 3 and not found.is_floating_point():
            if found.min() < 0 or found.max() >= count:
                raise InputError(f"the network gives labels outside 0..{count - 1}, the classes")
            return {"out": certain_logits(found.long(), count)}
        if found.dim() != 4 or found.shape[0] != len(images) or not found.is_floating_point():
            raise InputError(
                "the network must give logits (B, K, h, w) or labels (B, H, W), got "
                f"{found.dtype} of shape {tuple(found.shape)} for images {tuple(images.shape)}"
            )
        if found.shape[1] != count:
            raise InputError(
                f"the network gives {found.shape[1]} classes, but {count} are named: "
                f"{first_few(self.classes)}"
            )
        if upsample:
            found = F.interpolate(found, size, mode="bilinear", align_corners=False)
        return {"out": found.float()}


def _tensor_in(output: Any) -> Tensor:  # noqa: ANN401 - of any library
    """Return the logits or labels in the output of a network."""
    if isinstance(output, Mapping):
        names = [name for name in ("out", "logits") if name in output]
        if not names:
            raise InputError(
                f"the network gives a mapping of {first_few(map(str, output))}; wrap it in a "
                "function that returns the logits or labels"
            )
        return _tensor_in(output[names[0]])
    if hasattr(output, "logits"):
        return _tensor_in(output.logits)
    return torch.as_tensor(output)


def onnx_function(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what runs an ONNX file of any program: images (B, 3, H, W) -> its first output.

    Raises InputError if it cannot be opened or does not run.
    """
    session = open_session(path)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        try:
            (found, *_) = session.run(None, {name: images.float().numpy()})
        except Exception as error:  # of many types, none of them public
            raise InputError(f"'{path}' cannot run: {reason_of(error)}") from error
        return torch.from_numpy(found)

    return run
