"""Start a new model from pretrained weights: ImageNet's, those of a file, or those of a run.

The backbone must fit. Of the heads, the tensors that fit by name and shape are taken; of the layers
that give the scores of the classes, the rows of the classes with the same name.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
from torch import Tensor, nn

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.models.description import Described
from sceneparse.models.downloads import imagenet_weights
from sceneparse.models.origin import IMAGENET, imagenet_name, name_of, origin_of
from sceneparse.models.resnet import ResNet
from sceneparse.models.stored import Stored, read_stored
from sceneparse.models.timm_backbone import PYRAMID, TimmBackbone
from sceneparse.models.weights import State, fits, misfits
from sceneparse.runtime.shell import command_line

logger = logging.getLogger(__name__)

# The parts of models that must fit: of our backbones, of timm's classifiers.
_BACKBONE, _TIMM = "backbone.", "network."
_HEADS = ("head", "aux_head", "classifier", "network")
# Arguments of two builders that make networks differ although their tensors fit.
_COMPARED = ("output_stride", "multi_grid", "stem", "norm")


def load_pretrained(
    model: nn.Module,
    pretrained: str | Path,
    *,
    classes: Sequence[str] = (),
    setting: str = "pretrained",
) -> None:
    """Load weights into a new model, and log what was taken, what is new and what was left out.

    `pretrained`: "imagenet" (downloaded by timm), a file of weights, or a run, checkpoint or
    exported file of this package. `classes`: names of the model's classes; if the source has names
    too, the classifier's weights are taken for classes of the same name. `setting`: the name of
    `pretrained` in messages. The origin of the weights is stored in `model.meta`. Raises InputError
    if the weights do not fit the backbone.
    """
    description = cast(Described, model).meta
    arguments = description["model"]
    if pretrained == IMAGENET:
        if arguments.get("norm") == "group":
            raise InputError("ImageNet weights come with batch norm; use norm: frozen or batch")
        source = imagenet_name(arguments)
        stored = Stored(source, imagenet_weights(source, setting), {})
    else:
        stored = read_stored(pretrained)
    theirs = stored.meta.get("model", {})
    weights = _without_counters(stored.weights)
    state = _renamed(model, name_of(arguments), weights, stored.source)
    if theirs.get("head", arguments.get("head")) != arguments.get("head"):
        state = {f"its {key}" if key.startswith("head.") else key: state[key] for key in state}
    own = _without_counters(model.state_dict())
    scores = _score_keys(model, own, arguments["num_classes"])
    problems = misfits(_of_backbone(own, scores), _of_backbone(state, scores))
    if problems:
        told = f" (it holds {_architecture(theirs)}; this model is {_architecture(arguments)})"
        raise InputError(
            f"{stored.source} does not fit the model{told if theirs else ''}: {problems}; give "
            "weights of the same network, or build the network that they are of"
        )
    before = stored.meta.get("classes", [])
    taken = {key: state[key] for key in own if key in state and fits(own[key], state[key])}
    if before and classes:
        by_name = _rows_by_name(own, state, scores, before, classes)
        taken = {key: value for key, value in taken.items() if key not in scores} | by_name
    with refusing(stored.source, "cannot be loaded"):
        model.load_state_dict({**model.state_dict(), **taken})
    notes = {
        "new": _by_part(_with_sizes(key, own, state) for key in own if key not in taken),
        "left out": _by_part(key for key in state if key not in own),
        "built differently": _changes(theirs, arguments),
        **_about_classes(before, classes),
    }
    description["pretrained"] = origin_of(arguments, pretrained)
    line = f"pretrained weights from {stored.source}: taken {len(taken)} of {len(own)} tensors"
    logger.info("; ".join([line, *(f"{k}: {first_few(v, 8)}" for k, v in notes.items() if v)]))


def _changes(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Name the arguments of two builders that differ although all tensors fit."""
    return [
        f"{key} {theirs[key]} -> {ours[key]}"
        for key in _COMPARED
        if key in theirs and key in ours and json.dumps(theirs[key]) != json.dumps(ours[key])
    ]


def _renamed(model: nn.Module, name: str, state: State, source: str) -> State:
    """Return the tensors under the names that the model uses, whatever library wrote them."""
    if all(key.startswith(_TIMM) for key in state):  # a timm classifier that we trained
        state = {key.removeprefix(_TIMM): value for key, value in state.items()}
    if any(key.startswith(_BACKBONE) for key in state):
        return state
    if any(key.startswith(("linear.", "pretrained.", "auxlayer.")) for key in state):
        convert = command_line(["sceneparse", "weights", source, "NEW.safetensors"])
        raise InputError(f"{source} has the names of another code; convert it first: {convert}")
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, TimmBackbone):
        return _of_timm_features(backbone, state, source)
    if isinstance(backbone, ResNet):  # what remains are ImageNet's, whose classifier is `fc`
        return {
            f"classifier.{key[3:]}" if key.startswith("fc.") else f"{_BACKBONE}{key}": value
            for key, value in state.items()
        }
    converted = _as_timm_has_them(name, state, source)
    return {f"{_TIMM}{key}": value for key, value in converted.items()}


def _of_timm_features(backbone: TimmBackbone, state: State, source: str) -> State:
    """Return the tensors of timm's whole network under the names of its features."""
    state = _as_timm_has_them(backbone.name, state, source)
    # timm's wrapper for features flattens nested names: stages.0 becomes stages_0.
    flat = {key.replace(".", "_"): key for key in state}
    own = _without_counters(backbone.features.state_dict())
    found = {key: flat.get(key.removeprefix(backbone.prefix).replace(".", "_")) for key in own}
    unknown = [key for key, name in found.items() if name is None]
    if unknown:
        raise InputError(f"{source}: no weights for {first_few(unknown)} of {backbone.name}")
    features = {f"{_BACKBONE}features.{key}": state[str(name)] for key, name in found.items()}
    left_out = [key for key in state if key not in found.values()]
    return {**features, **{f"its {key}": state[key] for key in left_out}}


def _as_timm_has_them(name: str, state: State, source: str) -> State:
    """Return the tensors of timm's network `name`; raises InputError if they are of another one.

    Those of other code are converted if timm knows how. The classifier may have any classes.
    """
    whole = timm.create_model(name)
    names = whole.default_cfg["classifier"]  # type: ignore[index]
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))

    def features(tensors: State) -> State:
        return {key: value for key, value in tensors.items() if not key.startswith(prefixes)}

    problems = misfits(features(_without_counters(whole.state_dict())), features(state))
    if not problems:
        return state
    overlay = {"state_dict": dict(state), "custom_load": False}
    try:
        whole = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # of many types; the tensors are of another network
        raise InputError(
            f"{source} does not fit {name}: {problems}; give weights of {name}, or choose the "
            "backbone that they are of"
        ) from error
    return _without_counters(whole.state_dict())


def _of_backbone(tensors: State, scores: Sequence[str]) -> State:
    """Return the tensors that must fit: those of the backbone, without attention and pyramid."""
    return {
        key: value
        for key, value in tensors.items()
        if key.startswith((_BACKBONE, _TIMM))
        and key not in scores
        and ".attention." not in key
        and not key.startswith(PYRAMID)
    }


def _without_counters(tensors: Mapping[str, Tensor]) -> State:
    """Return the tensors without the counters of batch norms, which nothing reads."""
    return {k: tensors[k] for k in tensors if not k.endswith("num_batches_tracked")}


def _architecture(arguments: Mapping[str, Any]) -> str:
    """Describe the network that the arguments of a builder make."""
    head = arguments.get("head")
    details = [
        f"{key} {arguments[key]}" for key in ("stem", "base_width", "norm") if key in arguments
    ]
    kind = f"head {head}" if head else "a classifier"
    return ", ".join([f"{name_of(arguments)} with {kind}", *details])


def _score_keys(model: nn.Module, own: State, num_classes: int) -> list[str]:
    """Name the tensors of the layers that give the scores of classes: the last of each head."""
    found = []
    for part in _HEADS:
        head = getattr(model, part, None)
        layers = [
            name
            for name, _ in (head.named_modules(prefix=part) if head is not None else ())
            if f"{name}.weight" in own and own[f"{name}.weight"].shape[:1] == (num_classes,)
        ]
        found += layers[-1:]
    return [key for key in own if key.rpartition(".")[0] in found]


def _rows_by_name(
    own: State, state: State, keys: Sequence[str], before: Sequence[str], classes: Sequence[str]
) -> State:
    """Return the layers that give scores, with the rows of the source for classes it has too."""
    shared = [(row, before.index(name)) for row, name in enumerate(classes) if name in before]
    found = {}
    for key in keys if shared else ():
        if key in state and state[key].shape == (len(before), *own[key].shape[1:]):
            found[key] = own[key].clone()
            for row, old_row in shared:
                found[key][row] = state[key][old_row]
    return found


def _about_classes(before: Sequence[str], classes: Sequence[str]) -> dict[str, list[str]]:
    """Return which classes were taken, are new or were left out, by heading."""
    if not classes:
        return {"classes, in the order of the source": list(before)}
    return {
        "classes taken by name": [name for name in classes if name in before],
        "new classes": [name for name in classes if before and name not in before],
        "classes left out": [name for name in before if name not in classes],
    }


def _with_sizes(key: str, own: State, state: State) -> str:
    """Return the name of a tensor, with both shapes if they differ."""
    if key not in state or state[key].shape == own[key].shape:
        return key
    return f"{key} ({list(state[key].shape)} -> {list(own[key].shape)})"


def _by_part(names: Iterable[str]) -> list[str]:
    """Return the names, or a count for each part of the network that has more than three."""
    parts: dict[str, list[str]] = {}
    for name in names:
        part = "attention blocks" if ".attention." in name else name.split(".")[0]
        part = "pyramid" if name.startswith(PYRAMID) else part
        parts.setdefault(part, []).append(name)
    return [
        shown
        for part, inside in parts.items()
        for shown in (inside if len(inside) <= 3 else [f"{part} ({len(inside)} tensors)"])
    ]
