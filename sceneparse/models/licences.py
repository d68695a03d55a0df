"""Licences of pretrained weights: which are permissive, and what to use instead of the others."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

import timm
import torch

from sceneparse.errors import InputError
from sceneparse.models.backbone_costs import RECOMMENDED
from sceneparse.models.costs import count_parameters
from sceneparse.models.origin import IMAGENET, UNKNOWN, Origin, config_in_timm, licence_in_timm
from sceneparse.models.timm_backbone import TimmBackbone

logger = logging.getLogger(__name__)

# Licences that allow use, change and sale for any purpose, by their names in SPDX and timm.
PERMISSIVE = frozenset(
    ("apache-2.0", "mit", "isc", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0")
)
# Similar weights: how many are named, of how many close names, up to which logarithm of the ratio
# of their parameters.
_NAMED, _CLOSE_NAMES, _SIMILAR = 3, 8, math.log(2)


def check_licence(
    origin: Origin | None, source: object, policy: str, *, output_stride: int
) -> None:
    """Log the licence of weights to start from, with a warning if it is not permissive.

    source: what the user asked for. policy: "permissive" raises InputError instead of a warning; it
    names similar weights for backbones of `output_stride`. Unknown licences of weights that timm
    does not know are never an error, since the user may know them.
    """
    if origin is None:
        return
    weights, licence = origin["weights"], origin["licence"]
    told = f"pretrained weights {weights}"
    if str(source) not in {weights, IMAGENET}:
        told += f" (from {source})"
    if licence in PERMISSIVE:
        logger.info(f"licence of the {told}: {licence}")
    elif licence == UNKNOWN and config_in_timm(weights) is None:
        missing = "; --licences permissive cannot check it" if policy == "permissive" else ""
        logger.warning(f"warning: licence of the {told}: unknown{missing}; look it up yourself")
    elif policy == "permissive":
        names = _permissive_neighbours(weights, output_stride)
        raise InputError(
            f"--licences permissive refuses the {told}: their licence is {licence}; similar "
            f"weights under a permissive licence: {', '.join(names)}"
        )
    else:
        logger.warning(
            f"warning: licence of the {told}: {licence}, which is not permissive; make sure that "
            "it allows your use (--licences permissive refuses such weights and names others)"
        )


def _permissive_neighbours(weights: str, output_stride: int) -> list[str]:
    """Name weights under a permissive licence: of the same network, else of similar ones.

    Similar are the closest names of timm's family that are at most twice or half as large, then
    the recommended backbones of the closest size. Those that cannot be backbones of
    `output_stride` are left out.
    """
    network = weights.partition(".")[0]
    close, recommended = list[str](), [name for name in RECOMMENDED if "." in name]  # timm's
    if timm.is_model(network):  # else another version of timm has it
        if others := _permissive(timm.list_models(f"{network}.*", pretrained=True)):
            return others[:_NAMED]
        family = timm.models.model_entrypoint(network).__module__.rpartition(".")[2]
        relatives = {
            name.partition(".")[0]: name
            for name in reversed(_permissive(timm.list_models(module=family, pretrained=True)))
        }
        size = _parameters(network)
        named = [relatives[name] for name in get_close_matches(network, relatives, _CLOSE_NAMES)]
        ratios = {name: abs(math.log(_parameters(name) / size)) for name in named}
        close = [name for name in sorted(named, key=ratios.__getitem__) if ratios[name] < _SIMILAR]
        recommended.sort(key=lambda name: abs(math.log(RECOMMENDED[name].parameters / size)))
    fitting = (name for name in (*close, *recommended) if _fits(name, output_stride))
    return [*islice(fitting, _NAMED)]


def _permissive(names: Iterable[str]) -> list[str]:
    return [name for name in names if licence_in_timm(name) in PERMISSIVE]


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return count_parameters(timm.create_model(name, num_classes=0))


def _fits(name: str, output_stride: int) -> bool:
    try:
        with torch.device("meta"):
            TimmBackbone(name, output_stride=output_stride)
    except InputError:
        return False
    return True
