"""List backbones: recommended ones, or all of a pattern, with costs, needs and licences."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
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
# Networks of a pattern whose costs are computed, which takes about two seconds for each.
_MAX_COMPUTED = 25
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("backbones", "List backbones, their costs and licences.", EXAMPLES)
    pattern = "names of timm, with * for any characters; default: the recommended backbones"
    result.add_argument("pattern", nargs="?", metavar="PATTERN", help=pattern)
    add_option(result, "--measure", "time each backbone on this machine")
    return result


def main(options: argparse.Namespace) -> None:
    """Print the table of the backbones."""
    import torch

    from sceneparse.models.recommended import RECOMMENDED, RECOMMENDED_RESNETS
    from sceneparse.report.tables import Table
    from sceneparse.runtime.versions import describe_device

    names: Sequence[str] = (*RECOMMENDED_RESNETS, *RECOMMENDED)
    if options.pattern is not None:
        names = _matching(options.pattern)
    costs, omitted = _costs_of(names)
    if omitted and options.measure:
        raise InputError(
            f"'{options.pattern}' matches {omitted} networks, too many to time; give a pattern "
            f"that matches {_MAX_COMPUTED} at most"
        )
    rows = [{**_cost_cells(name, costs), **_weight_cells(name)} for name in names]
    if options.measure:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for row, time in zip(rows, _milliseconds(names, costs, device), strict=True):
            row["ms"] = time
    print(Table("Backbones", [*rows[0]], [[*row.values()] for row in rows]).as_text())
    if omitted:
        print(f"\ncosts are computed for {_MAX_COMPUTED} networks at most; narrow the pattern")
    if options.measure:
        print(f"\nms: one image at a time, float32, medians, on {describe_device(device)}")


def _matching(pattern: str) -> tuple[str, ...]:
    """Return our ResNets and timm's models that match a pattern; raises InputError if none does."""
    import timm

    from sceneparse.models.resnet import RESNETS

    ours = [name for name in RESNETS if fnmatch(name, pattern)]
    names = (*ours, *timm.list_models(pattern, include_tags=True))
    if not names:
        near = get_close_matches(pattern, timm.list_models(), 5)
        raise InputError(
            f"no backbone matches '{pattern}'; similar names: {', '.join(near) or 'none'}; "
            "a pattern holds * for any characters"
        )
    return names


def _costs_of(names: Sequence[str]) -> tuple[dict[str, BackboneCosts | None], int]:
    """Return the costs by name, stored or computed, and the number of networks left out.

    Those that are missing are left out; None: the model cannot be a backbone.
    """
    from sceneparse.models.backbone_costs import compute_costs, read_costs
    from sceneparse.models.origin import config_in_timm
    from sceneparse.models.recommended import COSTS_FILE
    from sceneparse.runtime.progress import Progress

    costs: dict[str, BackboneCosts | None] = {**read_costs(COSTS_FILE)}
    # Other weights of a network cost the same, but those for a fixed size of images.
    same: dict[object, list[str]] = {}
    for name in names:
        if name not in costs:
            size = getattr(config_in_timm(name), "input_size", None)
            same.setdefault((name.partition(".")[0], "." in name, size), []).append(name)
    if len(same) > _MAX_COMPUTED:
        return costs, len(same)
    progress = Progress(len(same), "networks")
    for others in same.values():
        costs |= dict.fromkeys(others, compute_costs(others[0]))
        progress.advance(1)
    progress.close()
    return costs, 0


def _cost_cells(name: str, costs: Mapping[str, BackboneCosts | None]) -> dict[str, str]:
    """Return what a backbone costs and can do, by the head of the column."""
    from sceneparse.models.backbone_costs import SIDE, weights_of

    its, weights = costs.get(name), weights_of(name)
    shown = name if weights == name else f"{name} ({weights})"
    if its is None:
        none = "none" if name in costs else "-"
        return {"backbone": shown, "M params": "-", "GMAC": "-", "strides": "-", "outputs": none}
    at = "" if its.side == SIDE else f" at {its.side}"
    return {
        "backbone": shown,
        "M params": f"{its.parameters / 1e6:.1f}",
        "GMAC": f"{its.multiply_adds / 1e9:.1f}{at}",
        "strides": " ".join(map(str, its.strides)),
        "outputs": " ".join(map(str, its.output_strides)),
    }


def _weight_cells(name: str) -> dict[str, str]:
    """Return what is known of the weights of a backbone, by the head of the column."""
    from sceneparse.models.backbone_costs import weights_of
    from sceneparse.models.licences import PERMISSIVE
    from sceneparse.models.origin import config_in_timm, licence_in_timm
    from sceneparse.models.recommended import CAMVID_MEAN_IOU

    weights = weights_of(name)
    config = config_in_timm(weights)
    score = CAMVID_MEAN_IOU.get(weights)
    measured = "unmeasured" if score is None else f"{score:.3f}"
    if config is None or not config.has_weights:
        return {"mean, std": "-", "licence": "no weights", "CamVid": measured}
    licence = licence_in_timm(weights)
    return {
        "mean, std": _written(tuple(config.mean), tuple(config.std)),
        "licence": licence if licence in PERMISSIVE else f"{licence} (!)",
        "CamVid": measured,
    }


def _written(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Write mean and standard deviation in short."""
    if (mean, std) == _IMAGENET:
        return "ImageNet"
    parts = ([values[0]] if len({*values}) == 1 else values for values in (mean, std))
    return ", ".join(" ".join(f"{value:.3g}" for value in part) for part in parts)


def _milliseconds(
    names: Sequence[str], costs: Mapping[str, BackboneCosts | None], device: torch.device
) -> list[str]:
    """Time the backbones one after the other; "-" for models that cannot be backbones."""
    from sceneparse.models.backbone_costs import measure_seconds
    from sceneparse.runtime.progress import Progress

    progress, times = Progress(len(names), "networks"), []
    for name in names:
        its = costs[name]
        times.append("-" if its is None else f"{1000 * measure_seconds(name, its, device):.0f}")
        progress.advance(1)
    progress.close()
    return times
