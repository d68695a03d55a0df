"""The mean and standard deviation that images were normalised with when weights were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sceneparse.errors import InputError
from sceneparse.models.description import Channels, check_description
from sceneparse.models.origin import (
    IMAGENET,
    config_in_timm,
    imagenet_name,
    origin_of,
    timm_config_beside,
)
from sceneparse.models.stored import CONFIG_FILE, read_description


class Statistics(NamedTuple):
    """RGB mean and standard deviation of images, in 0..1, and in words where they come from."""

    mean: Channels
    std: Channels
    origin: str

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], origin: str) -> Statistics:
        """Return them from three plain numbers each."""
        return cls(_channels(mean), _channels(std), origin)


def _channels(values: Sequence[float]) -> Channels:
    red, green, blue = map(float, values)
    return red, green, blue


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
        if not {"mean", "std"} <= meta.keys():
            meta = _timm_description(Path(source))
        if {"mean", "std"} <= meta.keys():
            return Statistics.of(meta["mean"], meta["std"], f"as in {source}")
    with suppress(InputError):  # our ResNets can be unlike all that timm has weights for
        origin = origin_of(arguments, pretrained)
        names = () if origin is None else (origin["weights"], imagenet_name(arguments))
        for cfg in filter(None, map(config_in_timm, names)):
            name = ".".join(filter(None, (cfg.architecture, cfg.tag)))
            return Statistics.of(cfg.mean, cfg.std, f"as in timm's {name}")
    return None


def _timm_description(source: Path) -> dict[str, Any]:
    """Return what a config.json of timm beside a file of weights says; {}: there is none."""
    config = timm_config_beside(source)
    found: dict[str, Any] = {key: config[key] for key in ("mean", "std") if key in config}
    return check_description({"model": {}, **found}, source.with_name(CONFIG_FILE))
