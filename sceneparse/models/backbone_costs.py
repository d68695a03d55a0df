"""What backbones cost and can do: parameters, multiply-adds, strides of their maps."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from timeit import timeit

import torch
from torch import nn

from sceneparse.errors import InputError
from sceneparse.models.costs import count_multiply_adds, count_parameters
from sceneparse.models.origin import IMAGENET_NAMES, origin_in_timm
from sceneparse.models.resnet import Stem
from sceneparse.models.segmentation import create_segmentation_model

# Side of the square image that multiply-adds are counted on, if the backbone takes it.
SIDE = 512
_OUTPUT_STRIDES = (32, 16, 8)
# Runs whose median is taken, after one that is not counted.
_RUNS = 5


@dataclass(frozen=True)
class BackboneCosts:
    """Costs of a backbone at its largest output stride, on an image of `side` x `side`.

    `strides`: those of its four maps. `output_strides`: the ones that it can have.
    """

    parameters: int
    multiply_adds: int
    side: int
    strides: tuple[int, ...]
    output_strides: tuple[int, ...]


def create_backbone(name: str, output_stride: int = 32) -> nn.Module:
    """Build a backbone without attention blocks, as models do; raises InputError if it cannot be.

    Our ResNets have the stem of `weights_of`.
    """
    stem = _stem_of(name)
    return create_segmentation_model(
        "fcn",
        name,
        attention="none",
        aux=False,
        output_stride=output_stride,
        stem=stem or "deep",
    ).backbone


def weights_of(name: str) -> str:
    """Return timm's name of the ImageNet weights for a backbone, with their tag.

    Those for a ResNet of ours have the deep stem if there are weights with it, else the plain one.
    """
    stem = _stem_of(name)
    return origin_in_timm(IMAGENET_NAMES[name, stem] if stem else name)["weights"]


def _stem_of(name: str) -> Stem | None:
    """Return the stem that there are ImageNet weights with; None: it is no ResNet of ours."""
    stems: tuple[Stem, ...] = ("deep", "plain")
    return next((stem for stem in stems if (name, stem) in IMAGENET_NAMES), None)


def compute_costs(name: str) -> BackboneCosts | None:
    """Return the costs of a backbone; None if the model cannot be a backbone.

    The side is that multiple of the backbone's unit which is next to SIDE, or its only size.
    """
    backbones: dict[int, nn.Module] = {}
    for output_stride in _OUTPUT_STRIDES:
        with suppress(InputError), torch.device("meta"):
            backbones[output_stride] = create_backbone(name, output_stride)
    if not backbones:
        return None
    backbone = backbones[max(backbones)]
    side = _side_of(backbone)
    return BackboneCosts(
        parameters=count_parameters(backbone),
        multiply_adds=count_multiply_adds(backbone.eval(), (1, 3, side, side)),
        side=side,
        strides=tuple(backbone.strides),  # type: ignore[arg-type]
        output_strides=tuple(sorted(backbones)),
    )


def _side_of(backbone: nn.Module) -> int:
    unit = getattr(backbone, "size_multiple", 1)
    side = round(SIDE / unit) * unit
    smallest, largest = (getattr(backbone, name, None) for name in ("min_size", "max_size"))
    return max(min(side, largest or side), smallest or side, unit)


@torch.inference_mode()
def measure_seconds(name: str, costs: BackboneCosts, device: torch.device) -> float:
    """Return the median time of a backbone for one image, in float32, at the size of its costs."""
    backbone = create_backbone(name, max(costs.output_strides)).to(device).eval()
    images = torch.rand(1, 3, costs.side, costs.side, device=device)

    def run() -> None:
        backbone(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()  # the first call is slower
    return median(timeit(run, number=1) for _ in range(_RUNS))


def read_costs(path: Path) -> dict[str, BackboneCosts]:
    """Read the file of `write_costs`: costs by the name of the backbone."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["backbone"]: BackboneCosts(
                parameters=int(row["parameters"]),
                multiply_adds=int(row["multiply_adds"]),
                side=int(row["side"]),
                strides=tuple(map(int, row["strides"].split())),
                output_strides=tuple(map(int, row["output_strides"].split())),
            )
            for row in csv.DictReader(file)
        }


def write_costs(path: Path, names: Iterable[str]) -> None:
    """Compute the costs of backbones and write them as CSV; raises InputError if one cannot be."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["backbone", *BackboneCosts.__dataclass_fields__])
        for name in names:
            costs = compute_costs(name)
            if costs is None:
                raise InputError(f"'{name}' cannot be a backbone")
            cells = [
                " ".join(map(str, value)) if isinstance(value, tuple) else value
                for value in vars(costs).values()
            ]
            writer.writerow([name, *cells])
