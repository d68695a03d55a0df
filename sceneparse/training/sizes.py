"""Check before the first step that the network takes the crops and the validation images."""

from __future__ import annotations

import copy
from operator import itemgetter

import torch

from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.errors import InputError, reason_of
from sceneparse.inference.protocols import Protocol
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.training.loop import Forward
from sceneparse.training.start import validate_inputs

# Images whose size is read.
_MAX_IMAGES = 500


def validate_sizes(
    model: SegmentationModel,
    forward: Forward,
    *,
    crops: tuple[int, int, int],
    protocol: Protocol,
    dataset: SegmentationDataset,
) -> None:
    """Raise InputError if a network cannot train on crops (B, H, W) or evaluate a dataset."""
    batch, height, width = crops
    model.require_fit(height, width, "augment.crop")
    validate_inputs(
        model,
        (batch, 3, height, width),
        forward,
        remedy="change augment.crop or train.batch_size, or set model.norm: group",
    )
    outline = copy.deepcopy(model).to("meta").eval()
    for size in extreme_sizes(dataset):
        try:
            for scale in protocol.scales:
                found = protocol.input_size(model, *protocol.scaled(*size, scale))
                outline(torch.empty(1, 3, *found, device="meta"), upsample=False)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise InputError(
                f"the network cannot evaluate images of {size[0]}x{size[1]} with eval.protocol: "
                f"{protocol.name} ({reason_of(error)})"
            ) from error


def extreme_sizes(dataset: SegmentationDataset) -> list[tuple[int, int]]:
    """Return the sizes (H, W) of the lowest, narrowest, highest and widest of up to 500 images."""
    sizes = dataset.sizes(spread(len(dataset), _MAX_IMAGES))
    return sorted({pick(sizes, key=itemgetter(axis)) for pick in (min, max) for axis in (0, 1)})
