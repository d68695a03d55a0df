"""Reading weights, and loading them strictly, with one line about what does not fit.

Files are .safetensors, or .pth/.pt/.th with tensors and plain values.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError, validate_call
from torch import Tensor, nn

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.models.description import first_problem
from sceneparse.models.tensor_files import read_safetensors, read_tensors, require_plain

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

# Keys around the tensors, and prefixes of DataParallel, DDP and torch.compile, possibly nested; the
# depth is limited, since a file can contain itself.
_KEYS = ("state_dict", "model", "net") * 8
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

    Removes a `state_dict`, `model` or `net` key around the tensors, and the prefixes of wrappers.
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
    problems = misfits(module.state_dict(), state)
    if problems:
        raise InputError(f"{source} does not fit the model: {problems}")


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Name the tensors of a file that differ from the model's `own`; "": all fit."""
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
    return "; ".join(problems)


def fits(own: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor can be loaded in place of the model's own."""
    return own.shape == tensor.shape and _kind(own) == _kind(tensor)


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
        if "pretrained" in arguments:  # it would read another file, or download one
            raise ValueError("it asks for other weights")
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
