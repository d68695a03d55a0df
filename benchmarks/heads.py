"""Measure the cost of each head on a ResNet-50 without attention blocks, against FCN."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from benchmarks.rows import Row, compare
from sceneparse.models import create_segmentation_model
from sceneparse.models.costs import count_multiply_adds, count_parameters
from sceneparse.models.heads import HEADS
from sceneparse.models.segmentation import SegmentationModel

_CLASSES = 19
_SHAPE = (1, 3, 512, 512)


def measure() -> list[Row]:
    """Time whole networks in float32, each in turns with the FCN network."""
    plain, images = _network("fcn"), torch.randn(_SHAPE)
    with torch.inference_mode():
        return [
            compare(
                f"network_{head}_vs_fcn",
                partial(_network(head), images, upsample=False),
                partial(plain, images, upsample=False),
                repeats=3,
            )
            for head in HEADS
            if head != "fcn"
        ]


def costs() -> str:
    """Format parameters, multiply-adds and options of the networks, counted without computing."""
    lines = [f"{'head':<20}  parameters  of the head    GMAC  options"]
    for head in HEADS:
        with torch.device("meta"):
            model = _network(head)
        lines.append(
            f"{head:<20}  {_millions(model):>9}M  {_millions(model.head):>10}M  "
            f"{count_multiply_adds(model, _SHAPE, upsample=False) / 1e9:6.1f}  "
            f"{', '.join(getattr(HEADS[head], 'options', {}))}"
        )
    return "\n".join(lines)


def _network(head: str) -> SegmentationModel:
    model = create_segmentation_model(head, "resnet50", _CLASSES, attention="none", aux=False)
    return model.eval()


def _millions(module: nn.Module) -> str:
    return f"{count_parameters(module) / 1e6:.2f}"
