"""The graph that is exported: traced once, it takes any number of images of any size.

Strips are pooled by means, grids by matrices computed from the size (layers.pooling.pool_to_grid),
so that the graph does not contain the size it was traced at.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from sceneparse.errors import InputError
from sceneparse.inference.prepare import prepare_for_inference
from sceneparse.layers.blocks import resize
from sceneparse.models.segmentation import SegmentationModel

# No multiple of a stride plus one, so that no padding is 0.
_TRACED_SIZE = (2, 130, 190)
# Axes of any size: batch, height and width.
_FREE = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
Size = tuple[int, int]


class ExportedGraph(nn.Module):
    """The network with folded batch norms and, if asked for, normalisation before, argmax after it.

    `normalize`: images are RGB values 0..255 as float32, else normalised. `argmax`: the output is
    labels (B, H, W) of whole images, padded as in the protocol "whole", else logits (B, K, h, w).
    Shape: (B, 3, H, W) -> labels or logits
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: SegmentationModel, *, normalize: bool, argmax: bool) -> None:
        super().__init__()
        self.model = prepare_for_inference(model, channels_last=False)
        self.normalize, self.argmax = normalize, argmax
        self.stride = model.output_stride
        # The mean and deviation of models are of values in 0..1.
        for name, values in (("mean", model.mean), ("std", model.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits or labels."""
        if self.normalize:
            images = (images - self.mean) / self.std
        if not self.argmax:
            logits: Tensor = self.model(images, upsample=False)["out"]
            return logits
        padded = self.pad(images)
        logits = self.model(padded, upsample=False)["out"]
        labels = resize(logits, padded.shape[-2:]).argmax(dim=1)
        return labels[:, : images.shape[-2], : images.shape[-1]]

    def fitting_size(self, height: int, width: int) -> Size:
        """Return the size next above this one that the graph takes, or its largest."""
        if self.argmax:
            return height, width
        largest = self.model.max_size or max(height, width)
        return self.model.fitting_size(min(height, largest), min(width, largest))

    def extend(self, images: Tensor) -> Tensor:
        """Extend images (B, 3, H, W) to a size that the graph takes."""
        height, width = images.shape[-2:]
        rows, columns = self.fitting_size(height, width)
        return F.pad(images, (0, columns - width, 0, rows - height))

    def pad(self, images: Tensor) -> Tensor:
        """Pad images (B, 3, H, W) at the right and bottom, as the protocol "whole" does."""
        height, width = images.shape[-2:]
        if (unit := self.model.size_multiple) > 1:
            return F.pad(images, (0, -width % unit, 0, -height % unit))
        return F.pad(images, (0, (1 - width) % self.stride, 0, (1 - height) % self.stride))


def example(graph: ExportedGraph, fixed: Size | None) -> tuple[Tensor, dict[str, Any] | None]:
    """Return images to trace a graph with, and which of their axes may vary (None: none).

    Raises InputError if the network does not take images of size `fixed`, or only one size.
    """
    if fixed is not None:
        graph.model.fitting_size(*fixed)  # raises InputError if there is none
        if not graph.argmax:
            graph.model.require_fit(*fixed, "--fixed")
        return torch.rand(1, 3, *fixed), None
    if side := graph.model.max_size:
        raise InputError(f"the network takes images of one size only; give --fixed {side} {side}")
    batch, height, width = _TRACED_SIZE
    size = graph.fitting_size(height, width)
    return torch.rand(batch, 3, *size), {"images": _FREE}


def as_taken(graph: ExportedGraph, image: NDArray[np.uint8], fixed: Size | None) -> Tensor:
    """Convert an RGB image (H, W, 3) to the input of a graph (1, 3, H', W').

    Its size becomes `fixed`; None: it is padded as in the protocol "whole".
    """
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
    if fixed is not None:
        pixels = F.interpolate(pixels, fixed, mode="area")
    normalized = (pixels - graph.mean) / graph.std
    if fixed is None:
        normalized = graph.pad(normalized)
    return normalized * graph.std + graph.mean if graph.normalize else normalized
