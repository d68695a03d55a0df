"""Loading weights into models: strictly, with a readable account of what did not fit.

Files are safetensors, or .pth/.pt/.th, of which only tensors and plain values are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from pydantic import ValidationError, validate_call
from torch import Tensor, nn

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.models.description import first_problem
from sceneparse.models.resnet import ResNet
from sceneparse.models.tensor_files import read_safetensors, read_tensors, require_plain
from sceneparse.models.timm_backbone import TimmBackbone

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

# timm's ImageNet weights for our ResNets, by stem.
_IMAGENET_NAMES = {
    ("resnet50", "deep"): "resnet50s.gluon_in1k",
    ("resnet101", "deep"): "resnet101s.gluon_in1k",
    ("resnet152", "deep"): "resnet152s.gluon_in1k",
    ("resnet18", "plain"): "resnet18.tv_in1k",
    ("resnet34", "plain"): "resnet34.tv_in1k",
    ("resnet50", "plain"): "resnet50.tv_in1k",
    ("resnet101", "plain"): "resnet101.tv_in1k",
    ("resnet152", "plain"): "resnet152.tv_in1k",
}


def read_weights(path: str | Path) -> State:
    """Read named tensors from a .safetensors, .pth, .pt or .th file, without running its code.

    A `state_dict` or `model` key around the tensors and the prefixes of wrappers are taken off.
    Raises InputError for a missing, damaged or malicious file.
    """
    return unwrap_state(_read_file(Path(path)), str(path))


def unwrap_state(content: Any, source: str) -> State:  # noqa: ANN401 - a file holds anything
    """Return the named tensors in what a file holds, without wrappers; raises InputError."""
    # Bounded, since a file can hold itself.
    for _ in range(_MOST_WRAPPERS):
        content = _inner_state(content) or content
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise InputError(f"{source}: expected named tensors, found {type(content).__name__}")
    require_plain(content, source)
    state = dict(content)
    for _ in range(_MOST_WRAPPERS):
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in state)), None)
        if not state or prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


# DataParallel and DDP, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
_MOST_WRAPPERS = 8


def _inner_state(content: Any) -> Mapping[Any, Any] | None:  # noqa: ANN401 - a file holds anything
    if not isinstance(content, Mapping):
        return None
    inner = (content.get(key) for key in ("state_dict", "model"))
    return next((value for value in inner if isinstance(value, Mapping) and value), None)


def _read_file(path: Path) -> Any:  # noqa: ANN401 - a file can hold anything
    if not path.is_file():
        raise InputError(f"weights file '{path}' does not exist")
    return read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all of `state` into all of `module`; raise InputError that lists what does not fit."""
    refuse_misfits(module, state, source)
    with refusing(source, "cannot be loaded"):
        module.load_state_dict(dict(state))


def refuse_misfits(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError that lists which names, shapes and kinds of numbers differ."""
    require_plain(state, source)
    own = module.state_dict()
    shared = [name for name in own if name in state]
    differences = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} (file {list(state[name].shape)}, model {list(own[name].shape)})"
            for name in shared
            if own[name].shape != state[name].shape
        ],
        "of another kind": [
            f"{name} (file {state[name].dtype}, model {own[name].dtype})"
            for name in shared
            if _kind(own[name]) != _kind(state[name])
        ],
    }
    problems = [
        f"{len(names)} {kind}: {first_few(names, 3)}"
        for kind, names in differences.items()
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit the model: {'; '.join(problems)}")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Return what must be equal: loading converts between types of one kind only."""
    return tensor.is_floating_point(), tensor.is_complex()


def rebuild(
    create: Callable[..., Network],
    arguments: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: str,
) -> Network:
    """Call `create` with the arguments in a file and load the weights strictly.

    A few digits can ask for terabytes. So the network is first built without memory for its
    weights ("meta" device), and in full only if they are all in the file. Raises InputError naming
    `source`.
    """
    with refusing(source, "its meta.json does not describe a network"):
        with torch.device("meta"):
            outline = _call(create, arguments)
        refuse_misfits(outline, weights, source)
        network = _call(create, arguments)
    load_strict(network, weights, source)
    return network


def _call(create: Callable[..., Network], arguments: Mapping[str, Any]) -> Network:
    """Call a builder, after all arguments were checked against its annotations."""
    try:
        network: Network = validate_call(create)(**arguments)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    return network


def load_backbone(backbone: nn.Module, name: str, pretrained: str, *, stem: str) -> None:
    """Fill a backbone with weights: "imagenet" (downloaded by timm) or the path of a file.

    A file holds an ImageNet model of the backbone's kind, or a whole model of ours. `name` and
    `stem` are those the backbone was built with. What was left out is logged.
    """
    if pretrained == "imagenet":
        source, state = _imagenet_weights(backbone, name, stem)
    else:
        source, state = pretrained, read_weights(pretrained)
    own = {
        key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")
    }
    if own:
        dropped = [key for key in state if not key.startswith("backbone.")]
        load_strict(backbone, own, source)
    elif isinstance(backbone, TimmBackbone):
        dropped = _load_timm(backbone, state, source)
    else:
        dropped = _load_resnet(backbone, state, source)
    left_out = f"; left out its heads: {first_few(dropped, 4)}" if dropped else ""
    logger.info(f"backbone weights from {source}{left_out}")


def _with_counters(state: State, module: nn.Module) -> State:
    """Fill in batch norm's counters, which older files lack."""
    own = module.state_dict()
    return {**{key: own[key] for key in own if key.endswith("num_batches_tracked")}, **state}


def _load_resnet(backbone: nn.Module, state: State, source: str) -> list[str]:
    """ImageNet files have a classifier that we drop, and lack attention, which starts afresh."""
    dropped = [name for name in state if name.startswith("fc.")]
    own = {key: value for key, value in backbone.state_dict().items() if ".attention." in key}
    kept = {key: value for key, value in state.items() if key not in dropped}
    load_strict(backbone, _with_counters({**own, **kept}, backbone), source)
    return dropped


def _load_timm(backbone: TimmBackbone, state: State, source: str) -> list[str]:
    """Load strictly into timm's whole classifier, then copy what the features share with it."""
    whole = timm.create_model(backbone.name)
    classifier = _classifier_keys(whole)
    own_classifier = {k: v for k, v in whole.state_dict().items() if k in classifier}
    # The classifier's shape depends on the classes it was trained for; it is dropped anyway.
    load_strict(
        whole, {**{k: v for k, v in state.items() if k not in classifier}, **own_classifier}, source
    )
    # timm's feature wrappers flatten nested names: stages.0 becomes stages_0.
    flat = {key.replace(".", "_"): (key, value) for key, value in whole.state_dict().items()}
    wanted = {key: key.replace(".", "_") for key in backbone.features.state_dict()}
    unknown = [key for key, flattened in wanted.items() if flattened not in flat]
    if unknown:
        raise InputError(f"{source}: timm's features of {backbone.name} hide {first_few(unknown)}")
    shared = {key: flat[flattened][1] for key, flattened in wanted.items()}
    load_strict(backbone.features, shared, source)
    used = {flat[flattened][0] for flattened in wanted.values()}
    return [key for key in state if key not in used]


def _classifier_keys(whole: nn.Module) -> set[str]:
    names = whole.default_cfg["classifier"]  # type: ignore[index]
    prefixes: Iterable[str] = (names,) if isinstance(names, str) else names
    return {key for key in whole.state_dict() if any(key.startswith(f"{p}.") for p in prefixes)}


def _imagenet_weights(backbone: nn.Module, name: str, stem: str) -> tuple[str, State]:
    """Return the name of timm's weights for a backbone, and the weights."""
    source = name
    if isinstance(backbone, ResNet):
        if (name, stem) not in _IMAGENET_NAMES or backbone.base_width != 64:
            known = ", ".join(f"{model} with stem {kind}" for model, kind in _IMAGENET_NAMES)
            raise InputError(
                f"no ImageNet weights for {name} with stem {stem} and base_width "
                f"{backbone.base_width}; there are: {known}, all with base_width 64"
            )
        source = _IMAGENET_NAMES[name, stem]
    cfg = timm.get_pretrained_cfg(source)
    try:
        return source, dict(timm.create_model(source, pretrained=True).state_dict())
    except Exception as error:  # timm and the hub raise many types; the remedy is the same
        where = getattr(cfg, "hf_hub_id", None) or getattr(cfg, "url", None) or source
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(
            f"cannot download the ImageNet weights '{source}' ({reason}); fetch model.safetensors "
            f"of '{where}' elsewhere and set model.pretrained to its path"
        ) from error
