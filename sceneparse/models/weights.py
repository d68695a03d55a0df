"""Loading weights into models: strictly, with one line about what does not fit.

Files are .safetensors, or .pth/.pt/.th with tensors and plain values.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from huggingface_hub import model_info, try_to_load_from_cache
from pydantic import ValidationError, validate_call
from torch import Tensor, nn

from sceneparse.errors import InputError, first_few, reason_of, refusing
from sceneparse.models.description import first_problem
from sceneparse.models.resnet import ResNet
from sceneparse.models.tensor_files import read_safetensors, read_tensors, require_plain
from sceneparse.models.timm_backbone import TimmBackbone

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

# timm's ImageNet weights for our ResNets, by name and stem.
_IMAGENET_NAMES = {
    **{(f"resnet{depth}", "deep"): f"resnet{depth}s.gluon_in1k" for depth in (50, 101, 152)},
    **{(f"resnet{depth}", "plain"): f"resnet{depth}.tv_in1k" for depth in (18, 34, 50, 101, 152)},
}
# Keys around the tensors, and prefixes of DataParallel, DDP and torch.compile, possibly nested; the
# depth is limited, since a file can contain itself.
_KEYS = ("state_dict", "model") * 8
_PREFIXES = ("module.", "_orig_mod.") * 8


def read_weights(path: str | Path) -> State:
    """Read named tensors from a .safetensors, .pth, .pt or .th file, without running its code.

    Removes wrappers as `unwrap_state` does. Raises InputError for a missing, damaged or malicious
    file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights file '{path}' does not exist")
    read = read_safetensors if path.suffix == ".safetensors" else read_tensors
    return unwrap_state(read(path), str(path))


def unwrap_state(content: Any, source: str) -> State:  # noqa: ANN401 - a file holds anything
    """Return the named tensors in the content of a file; raises InputError.

    Removes a `state_dict` or `model` key around the tensors, and the prefixes of wrappers.
    """
    for key in _KEYS:
        inner = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and inner:
            content = inner
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise InputError(f"{source}: expected named tensors, found {type(content).__name__}")
    require_plain(content, source)
    state = dict(content)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state` into `module`; raise InputError that lists what is missing or does not fit."""
    check_fit(module, state, source)
    with refusing(source, "cannot be loaded"):
        module.load_state_dict(dict(state))


def check_fit(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
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
    """Return the kind of the numbers; loading converts only between types of one kind."""
    return tensor.is_floating_point(), tensor.is_complex()


def rebuild(
    create: Callable[..., Network],
    arguments: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: str,
) -> Network:
    """Call `create` with the arguments in a file and load the weights strictly.

    A few digits can ask for terabytes, so the network is first built without memory ("meta" device)
    and compared with the weights. Raises InputError naming `source`.
    """
    with refusing(source, "its meta.json does not describe a network"):
        build = validate_call(create)  # checks the arguments against the annotations
        try:
            with torch.device("meta"):
                outline = build(**arguments)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        check_fit(outline, weights, source)
        network = build(**arguments)
    load_strict(network, weights, source)
    return network


def load_backbone(backbone: nn.Module, name: str, pretrained: str, *, stem: str) -> None:
    """Load weights into a backbone: "imagenet" (downloaded by timm) or the path of a file.

    A file holds an ImageNet model of the same kind, or a whole model of ours. The backbone was
    built with `name` and `stem`. Logs which weights were skipped; raises InputError.
    """
    if pretrained == "imagenet":
        source, state = _imagenet_weights(backbone, name, stem)
    else:
        source, state = pretrained, read_weights(pretrained)
    dropped = [key for key in state if not key.startswith("backbone.")]
    if len(dropped) < len(state):
        own = {key.removeprefix("backbone."): state[key] for key in state.keys() - dropped}
        load_strict(backbone, own, source)
    elif isinstance(backbone, TimmBackbone):
        dropped = _load_timm(backbone, state, source)
    else:
        dropped = _load_resnet(backbone, state, source)
    skipped = f"; skipped its heads: {first_few(dropped, 4)}" if dropped else ""
    logger.info(f"backbone weights from {source}{skipped}")


def _load_resnet(backbone: nn.Module, state: State, source: str) -> list[str]:
    """Load the weights of an ImageNet ResNet; return the names of its classifier."""
    dropped = [key for key in state if key.startswith("fc.")]
    # The file lacks attention, which starts untrained, and may lack the counters of batch norms.
    lacking = {
        key: value
        for key, value in backbone.state_dict().items()
        if ".attention." in key or key.endswith("num_batches_tracked")
    }
    load_strict(backbone, lacking | {k: state[k] for k in state if k not in dropped}, source)
    return dropped


def _load_timm(backbone: TimmBackbone, state: State, source: str) -> list[str]:
    """Load strictly into timm's whole network, then copy the weights of the features."""
    whole = timm.create_model(backbone.name)
    # The classifier's shape depends on the classes it was trained for; it is dropped anyway.
    names = whole.default_cfg["classifier"]  # type: ignore[index]
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    own = whole.state_dict()
    classifier = {key for key in own if key.startswith(prefixes)}
    kept = {key: value for key, value in state.items() if key not in classifier}
    load_strict(whole, kept | {key: own[key] for key in classifier}, source)
    # timm's wrapper for features flattens nested names: stages.0 becomes stages_0.
    flat = {key.replace(".", "_"): (key, value) for key, value in own.items()}
    wanted = {key: key.replace(".", "_") for key in backbone.features.state_dict()}
    unknown = [key for key, flattened in wanted.items() if flattened not in flat]
    if unknown:
        raise InputError(f"{source}: no weights for {first_few(unknown)} of {backbone.name}")
    shared = {key: flat[flattened][1] for key, flattened in wanted.items()}
    load_strict(backbone.features, shared, source)
    used = {flat[flattened][0] for flattened in wanted.values()}
    return [key for key in state if key not in used]


def _imagenet_weights(backbone: nn.Module, name: str, stem: str) -> tuple[str, State]:
    """Download timm's weights for a backbone; return their name and the weights."""
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
    repository = getattr(cfg, "hf_hub_id", None)
    try:
        if repository and not try_to_load_from_cache(repository, "model.safetensors"):
            model_info(repository, timeout=10)  # unlike a download, it fails without retries
        return source, dict(timm.create_model(source, pretrained=True).state_dict())
    except Exception as error:  # timm and the hub raise many types; the remedy is the same
        where = repository or getattr(cfg, "url", None) or source
        raise InputError(
            f"cannot download the ImageNet weights '{source}' ({reason_of(error)}); download "
            f"model.safetensors of '{where}' elsewhere and set model.pretrained to its path"
        ) from error
