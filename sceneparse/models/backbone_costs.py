"""What backbones cost and can do, and which to start with: RECOMMENDED.

The costs of the recommended ones take a minute to compute, so recommended.json stores them:
`python -m tests.recommended` writes it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sceneparse.errors import InputError
from sceneparse.models.costs import count_multiply_adds, count_parameters
from sceneparse.models.segmentation import SegmentationModel, create_segmentation_model

# Side of the square image that multiply-adds are counted on, if the backbone takes it.
SIDE = 512


@dataclass(frozen=True)
class BackboneCosts:
    """Costs of a backbone at its largest output stride, on an image of `side` x `side`.

    `strides`: those of its four maps. `output_strides`: the ones that it can have, rising.
    """

    parameters: int
    multiply_adds: int
    side: int
    strides: list[int]
    output_strides: list[int]


COSTS_FILE = Path(__file__).with_name("recommended.json")
# ResNets of this package, then timm's names with the tag of the weights, small to middling, by
# rising multiply-adds; all weights are under a permissive licence.
RECOMMENDED = {
    name: BackboneCosts(**costs)
    for name, costs in json.loads(COSTS_FILE.read_text(encoding="utf-8")).items()
}
# Mean IoU on CamVid's validation images of the recipe camvid_mobilenet; the others are unmeasured.
CAMVID_MEAN_IOU = {"mobilenetv2_100.ra_in1k": 0.735}


def arguments_of(name: str) -> dict[str, Any]:
    """Return arguments of a model with this backbone; ResNets of ours have the usual stem."""
    stem = "plain" if name in {"resnet18", "resnet34"} else "deep"
    return {"head": "fcn", "backbone": name, "attention": "none", "aux": False, "stem": stem}


def compute_costs(name: str) -> BackboneCosts | None:
    """Return the costs of a backbone; None if the model cannot be a backbone.

    The side is that multiple of the backbone's unit which is next to SIDE, or its only size.
    """
    models: dict[int, SegmentationModel] = {}
    for stride in (8, 16, 32):
        with suppress(InputError), torch.device("meta"):
            models[stride] = create_segmentation_model(**arguments_of(name), output_stride=stride)
    if not models:
        return None
    model = models[max(models)]
    backbone, unit = model.backbone.eval(), model.size_multiple
    side = round(SIDE / unit) * unit
    side = max(min(side, model.max_size or side), model.min_size)
    return BackboneCosts(
        parameters=count_parameters(backbone),
        multiply_adds=count_multiply_adds(backbone, (1, 3, side, side)),
        side=side,
        strides=[*backbone.strides],  # type: ignore[misc]
        output_strides=[*models],
    )
