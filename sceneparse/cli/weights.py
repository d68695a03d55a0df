"""Convert a public SPNet checkpoint into weights that load into our models."""

from __future__ import annotations

import argparse
from pathlib import Path

from sceneparse.cli.command import command_parser

EXAMPLES = """\
  sceneparse weights SPNet101_ade20k.pth.tar spnet101_ade20k.safetensors
afterwards
  model.pretrained=spnet101_ade20k.safetensors       trains on from its backbone
  model.load_state_dict(sceneparse.models.pretrained.read_weights(FILE))    in Python"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("weights", "Convert a public SPNet checkpoint.", EXAMPLES)
    result.add_argument("source", metavar="IN", help="the published .pth, .pt or .tar file")
    result.add_argument("target", metavar="OUT", help="the .safetensors file to write")
    return result


def main(options: argparse.Namespace) -> None:
    """Read, rename, check against the network it belongs to, write."""
    from safetensors.torch import save_file

    from sceneparse.errors import InputError
    from sceneparse.models import create_segmentation_model
    from sceneparse.models.costs import count_parameters
    from sceneparse.models.pretrained import (
        convert_official_spnet,
        load_strict,
        official_architecture,
        read_weights,
    )

    target = Path(options.target)
    if target.suffix != ".safetensors":
        raise InputError(f"OUT must end in .safetensors, got '{target}'")
    if target.exists():
        raise InputError(f"'{target}' exists already; choose another name or remove it")
    state = convert_official_spnet(read_weights(options.source))
    arguments = official_architecture(state)
    model = create_segmentation_model(**arguments)
    load_strict(model, state, options.source)
    try:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
    except OSError as error:
        raise InputError(f"cannot write '{target}': {error.strerror}") from error
    parameters = count_parameters(model)
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    print(f"{len(state)} tensors, {parameters:,} parameters in {target}")
    print(f"they load strictly into sceneparse.create_segmentation_model({shown})")
