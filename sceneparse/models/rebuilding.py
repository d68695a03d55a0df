"""A network rebuilt from what a file says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from pydantic import ValidationError, validate_call
from torch import Tensor, nn

from sceneparse.errors import refusing
from sceneparse.models.described import first_problem
from sceneparse.models.pretrained import load_strict, refuse_misfits

Network = TypeVar("Network", bound=nn.Module)


def rebuild(
    create: Callable[..., Network],
    arguments: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    source: str,
) -> Network:
    """Call `create` with arguments of a file and load the weights, strictly.

    A few digits can ask for terabytes. So the network is outlined first, without memory for its
    weights, and built only where they are all in the file. Raises InputError naming `source`.
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
