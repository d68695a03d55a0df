"""Choose the mean and standard deviation that a run normalises images with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sceneparse.errors import InputError, refusing
from sceneparse.inference.normalization import Normalization
from sceneparse.models.origin import (
    IMAGENET,
    config_in_timm,
    imagenet_name,
    origin_of,
    timm_config_beside,
)
from sceneparse.models.published_resnets import IMAGENET_STATISTICS
from sceneparse.models.stored import read_description
from sceneparse.runs.checkpoint import Saved

logger = logging.getLogger(__name__)


class Statistics(NamedTuple):
    """RGB mean and standard deviation of images, in 0..1, and in words where they come from."""

    mean: Sequence[float]
    std: Sequence[float]
    origin: str

    def __str__(self) -> str:
        return f"mean {[*self.mean]}, std {[*self.std]} ({self.origin})"


_USUAL = Statistics(*IMAGENET_STATISTICS, "ImageNet's")


def choose_normalization(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    arguments: Mapping[str, Any],
    pretrained: str | None,
    saved: Saved | None,
    *,
    otherwise: Statistics = _USUAL,
) -> Normalization:
    """Choose what images are normalised with, and log it with its origin.

    A resumed run (`saved`) keeps its values. A new one takes `mean` and `std` if they are given,
    else those of the weights that `pretrained` names for a model built with `arguments`, else
    `otherwise`. Logs a warning if given values differ from those of the weights. Raises InputError
    if one of both is given alone.
    """
    if saved is not None:
        with refusing(saved.folder, "does not say what images are normalised with"):
            chosen = Statistics(saved.meta["mean"], saved.meta["std"], "as the run began")
    else:
        own = None if pretrained is None else pretrained_statistics(arguments, pretrained)
        chosen = own or otherwise
        if (mean is None) != (std is None):
            given, missing = ("mean", "std") if std is None else ("std", "mean")
            raise InputError(
                f"data.{given} is given without data.{missing}; give both, or neither: "
                f"then they are {chosen.origin}"
            )
        if mean is not None and std is not None:
            chosen = Statistics(mean, std, "data.mean, data.std")
        if own is not None and not np.allclose(own[:2], chosen[:2], atol=1e-3):
            logger.warning(
                f"the pretrained weights were trained with {own}; this run uses {chosen}; "
                "remove data.mean and data.std to use the former"
            )
    logger.info(f"images are normalised with {chosen}")
    return Normalization(tuple(chosen.mean), tuple(chosen.std))


def pretrained_statistics(
    arguments: Mapping[str, Any], pretrained: str | Path
) -> Statistics | None:
    """Return what the images that pretrained weights were trained on were normalised with.

    arguments, pretrained: see load_pretrained. The description of a model of ours holds it. For
    timm's weights it is in a config.json beside the file, as on the Hugging Face hub, or else in
    timm's table, for the weights that the path names or that timm loads for the network. None:
    unknown. Raises InputError if a file is damaged or missing.
    """
    if pretrained != IMAGENET:
        source, meta = read_description(pretrained)
        for found in (meta, timm_config_beside(Path(source))):
            if {"mean", "std"} <= found.keys():
                return Statistics(found["mean"], found["std"], f"as in {source}")
    with suppress(InputError):  # our ResNets can be unlike all that timm has weights for
        origin = origin_of(arguments, pretrained)
        names = () if origin is None else (origin["weights"], imagenet_name(arguments))
        for cfg in filter(None, map(config_in_timm, names)):
            name = ".".join(filter(None, (cfg.architecture, cfg.tag)))
            return Statistics(cfg.mean, cfg.std, f"as in timm's {name}")
    return None
