"""List backbones: recommended ones, or all of a pattern, with costs, needs and licences."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatch
from statistics import median
from timeit import timeit
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser
from sceneparse.cli.options import add_option
from sceneparse.errors import InputError

if TYPE_CHECKING:
    import torch

    from sceneparse.models.backbone_costs import BackboneCosts

EXAMPLES = """\
  sceneparse backbones
  sceneparse backbones 'convnext*_tiny*'
  sceneparse backbones resnet50
  sceneparse backbones --measure

Train with model.backbone=NAME model.pretrained=imagenet. Names of timm end in a point and the tag
of the weights. ResNets without a tag are ours; resnet18 and resnet34 need model.stem=plain.
Columns:
  M params   millions of parameters of the backbone, without a head
  GMAC       billions of multiply-adds for an image of 512x512, or of the size beside it that the
             backbone takes; at the largest output stride
  strides    image pixels per pixel of each of the four maps, at the largest output stride
  outputs    values of model.output_stride that work; none: the model cannot be a backbone
  mean, std  of the images that the weights were trained on, one number if all channels share it;
             ImageNet: 0.485 0.456 0.406, 0.229 0.224 0.225
  licence    of the weights, as timm states it; (!): not permissive
  CamVid     mean IoU of the recipe camvid_mobilenet on the validation images
  ms         milliseconds for this image on this machine (--measure)
- stands for what is not known or not computed."""
# Runs whose median is taken, after one that is not counted.
_RUNS = 5
# Networks of a pattern whose costs are computed, which takes about two seconds for each.
_MAX_COMPUTED = 25


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("backbones", "List backbones, their costs and licences.", EXAMPLES)
    pattern = "names of timm, with * for any characters; default: the recommended backbones"
    result.add_argument("pattern", nargs="?", metavar="PATTERN", help=pattern)
    add_option(result, "--measure", "time each backbone on this machine")
    return result


def main(options: argparse.Namespace) -> None:
    """Print the table of the backbones."""
    from sceneparse.models.backbone_costs import RECOMMENDED, compute_costs
    from sceneparse.report.tables import Table
    from sceneparse.runtime.devices import choose_device
    from sceneparse.runtime.progress import Progress
    from sceneparse.runtime.versions import describe_device

    names = [*RECOMMENDED] if options.pattern is None else _matching(options.pattern)
    first = {_network(name): name for name in reversed(names) if name not in RECOMMENDED}
    too_many = len(first) > _MAX_COMPUTED
    if too_many and options.measure:
        raise InputError(
            f"'{options.pattern}' matches {len(first)} networks, too many to time; give a pattern "
            f"that matches {_MAX_COMPUTED} at most"
        )
    device = choose_device()
    computed, rows = {}, []
    progress = Progress("backbones", len(names), "networks")
    for name in progress.over(names):
        network = _network(name)
        if name in first.values() and not too_many:
            computed[network] = compute_costs(name)
        costs = RECOMMENDED.get(name) or computed.get(network)
        row = _row(name, costs)
        if network in computed and costs is None:
            row["outputs"] = "none"
        if options.measure:
            row["ms"] = f"{1000 * _measure_seconds(name, costs, device):.0f}" if costs else "-"
        rows.append(row)
    progress.close()
    print(Table("Backbones", [*rows[0]], [[*row.values()] for row in rows]).as_text())
    if too_many:
        print(f"\ncosts are computed for {_MAX_COMPUTED} networks at most; narrow the pattern")
    if options.measure:
        print(f"\nms: one image at a time, float32, medians, on {describe_device(device)}")


def _measure_seconds(name: str, costs: BackboneCosts, device: torch.device) -> float:
    """Return the median time of a backbone for one image, in float32, at the size of its costs."""
    import torch

    from sceneparse.models.backbone_costs import arguments_of
    from sceneparse.models.segmentation import create_segmentation_model
    from sceneparse.runtime.devices import synchronize

    stride = costs.output_strides[-1]
    model = create_segmentation_model(**arguments_of(name), output_stride=stride)
    backbone = model.backbone.to(device).eval()
    images = torch.rand(1, 3, costs.side, costs.side, device=device)

    def run() -> None:
        backbone(images)
        synchronize(device)

    with torch.inference_mode():
        run()  # the first call is slower
        return median(timeit(run, number=1) for _ in range(_RUNS))


def _matching(pattern: str) -> list[str]:
    """Return our ResNets and timm's models that match a pattern; raises InputError if none does."""
    import timm

    from sceneparse.models.resnet import RESNETS

    ours = [name for name in RESNETS if fnmatch(name, pattern)]
    # timm takes an empty pattern for all names.
    names = [*ours, *(timm.list_models(pattern, include_tags=True) if pattern else ())]
    if not names:
        near = get_close_matches(pattern, timm.list_models(), 5)
        raise InputError(
            f"no backbone matches '{pattern}'; similar names: {', '.join(near) or 'none'}; "
            "a pattern holds * for any characters"
        )
    return names


def _network(name: str) -> object:
    """Return what decides the costs: the weights do by the size of their images alone."""
    from sceneparse.models.origin import config_in_timm

    network, dot, _ = name.partition(".")
    return network, dot, getattr(config_in_timm(name), "input_size", None)


def _row(name: str, costs: BackboneCosts | None) -> dict[str, str]:
    """Return what is known of a backbone and its ImageNet weights, by the head of the column."""
    from sceneparse.models.backbone_costs import CAMVID_MEAN_IOU, SIDE, arguments_of
    from sceneparse.models.licences import PERMISSIVE
    from sceneparse.models.origin import config_in_timm, imagenet_name, origin_in_timm

    weights, licence = origin_in_timm(imagenet_name(arguments_of(name))).values()
    row = {"backbone": name if weights == name else f"{name} ({weights})"}
    row |= dict.fromkeys(("M params", "GMAC", "strides", "outputs", "mean, std"), "-")
    if costs is not None:
        at = "" if costs.side == SIDE else f" at {costs.side}"
        row["M params"] = f"{costs.parameters / 1e6:.1f}"
        row["GMAC"] = f"{costs.multiply_adds / 1e9:.1f}{at}"
        row["strides"] = " ".join(map(str, costs.strides))
        row["outputs"] = " ".join(map(str, costs.output_strides))
    config, score = config_in_timm(weights), CAMVID_MEAN_IOU.get(weights)
    row["licence"] = "no weights"
    if config is not None and config.has_weights:
        row["mean, std"] = _written(config.mean, config.std)
        row["licence"] = licence if licence in PERMISSIVE else f"{licence} (!)"
    row["CamVid"] = "unmeasured" if score is None else f"{score:.3f}"
    return row


def _written(*statistics: Iterable[float]) -> str:
    """Write mean and standard deviation in short."""
    from sceneparse.models.published_resnets import IMAGENET_STATISTICS

    mean, std = map(tuple, statistics)
    if (mean, std) == IMAGENET_STATISTICS:
        return "ImageNet"
    parts = ([values[0]] if len({*values}) == 1 else values for values in (mean, std))
    return ", ".join(" ".join(f"{value:.3g}" for value in part) for part in parts)
