"""Which pretrained weights a model starts from, and their licence: timm's, or what a run records.

Descriptions of models hold it as "pretrained": {"weights": NAME, "licence": NAME}; None: the model
was trained from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import timm

from sceneparse.errors import InputError, one_line, refusing, unknown_name
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.models.description import check_description
from sceneparse.models.resnet import RESNETS
from sceneparse.models.stored import CONFIG_FILE, read_description

# The value of a setting `pretrained` that stands for timm's weights.
IMAGENET = "imagenet"
# timm's ImageNet weights for our ResNets, by name and stem.
IMAGENET_NAMES = {
    **{(f"resnet{depth}", "deep"): f"resnet{depth}s.gluon_in1k" for depth in (50, 101, 152)},
    **{(f"resnet{depth}", "plain"): f"resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101, 152)},
}
UNKNOWN = "unknown"
# Characters of a path that are kept, since names in descriptions are not longer.
_MAX_NAME = 200

Origin = dict[str, str]


def origin_of(arguments: Mapping[str, Any], pretrained: str | Path | None) -> Origin | None:
    """Return which weights `pretrained` stands for, without reading or downloading them.

    arguments: those that the model is built with. A run stands for the weights that it started from
    itself. Raises InputError.
    """
    if pretrained is None:
        return None
    if pretrained == IMAGENET:
        return origin_in_timm(imagenet_name(arguments))
    source, meta = read_description(pretrained)
    return recorded_origin(meta, pretrained) if meta else _of_file(source, name_of(arguments))


def recorded_origin(meta: Mapping[str, Any], place: str | Path) -> Origin | None:
    """Return which weights the model of a description started from; `place` has the description.

    Descriptions of versions that recorded no origin have the settings of their run.
    """
    if "pretrained" in meta:
        return None if meta["pretrained"] is None else dict(meta["pretrained"])
    with refusing(place, "does not describe a model of ours"):
        config = meta.get("config", {})
        section = config.get("model", {})
        asked = (section if isinstance(section, dict) else config).get("pretrained", place)
        return origin_of(meta["model"], asked) if asked in (None, IMAGENET) else _unknown(asked)


def origin_in_timm(name: str) -> Origin:
    """Return the weights that timm loads for a name, which may lack the tag of the weights."""
    tag = getattr(config_in_timm(name), "tag", None)
    return {
        "weights": f"{name}.{tag}" if tag and "." not in name else name,
        "licence": licence_in_timm(name),
    }


def licence_in_timm(name: str) -> str:
    """Return the licence that timm states for weights of its own; "unknown" if it states none."""
    return (getattr(config_in_timm(name), "license", None) or UNKNOWN).lower()


def config_in_timm(name: str) -> Any:  # noqa: ANN401 - a class of timm
    """Return timm's settings of weights; None if timm does not know the weights."""
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag of a known network
        return None


def validate_tag(name: str) -> None:
    """Raise InputError, with the known ones, if a model of timm has no weights of this tag."""
    if config_in_timm(name) is None:
        network = name.partition(".")[0]
        names = timm.list_models(f"{network}.*", include_tags=True)
        raise unknown_name("weights", name, names or [network])


def name_of(arguments: Mapping[str, Any]) -> str:
    """Return the name of the backbone, or of the classifier, from the arguments of a builder."""
    return str(arguments.get("backbone", arguments.get("model"))).removeprefix("timm:")


def imagenet_name(arguments: Mapping[str, Any]) -> str:
    """Return timm's name of the weights for a model of ours; raises InputError without any."""
    name = name_of(arguments)
    is_ours = arguments["model"] == name if "model" in arguments else name in RESNETS
    if not is_ours:
        return name
    stem = {"imagenet": "plain"}.get(arguments["stem"], arguments["stem"])
    width = arguments.get("base_width", 64)
    if (name, stem) not in IMAGENET_NAMES or width != 64:
        known = ", ".join(f"{model} with stem {kind}" for model, kind in IMAGENET_NAMES)
        raise InputError(
            f"no ImageNet weights for {name} with stem {stem} and base_width {width}; there are: "
            f"{known}, all with base_width 64"
        )
    return IMAGENET_NAMES[name, stem]


def _of_file(source: str, backbone: str) -> Origin:
    """Return the origin of a file of weights without a description.

    Its licence is known if timm's config.json beside it, a part of its path, or else the name of
    the backbone is the name of weights of timm with their tag, or of the file that timm loads. The
    licence of other weights is what this config.json states, if anything.
    """
    names, path = _names_of_weights(), Path(source)
    config = timm_config_beside(path)
    told = f"{config.get('architecture')}.{config.get('tag')}"
    for name in (told, path.stem, path.name, *path.parts, backbone):
        if found := names.get(name.removeprefix("models--timm--")):
            return origin_in_timm(found)
    stated = config.get("license") or UNKNOWN
    return {**_unknown(path), "licence": one_line(stated)[:_MAX_NAME].lower()}


def timm_config_beside(path: Path) -> dict[str, Any]:
    """Return what timm's config.json beside a file of weights says of them; {}: there is none.

    Raises InputError if its mean or std is wrong.
    """
    config = path.with_name(CONFIG_FILE)
    content = read_json(config, MAX_DESCRIPTION) if config.is_file() else None
    if not isinstance(content, dict) or "architecture" not in content:
        return {}
    # Old files of timm have no section for the settings.
    settings = content.get("pretrained_cfg", {})
    content |= settings if isinstance(settings, dict) else {}
    statistics = {key: content[key] for key in ("mean", "std") if key in content}
    check_description({"model": {}, **statistics}, config)
    return content


def _unknown(place: str | Path) -> Origin:
    return {"weights": one_line(place)[-_MAX_NAME:], "licence": UNKNOWN}


@cache
def _names_of_weights() -> dict[str, str]:
    """Return timm's names of weights with their tag, by themselves and by names of their files."""
    names = [name for name in timm.list_models(pretrained=True) if "." in name]
    files = {Path(str(config_in_timm(name).url)).name: name for name in names}
    return {**files, **{name: name for name in names}}
