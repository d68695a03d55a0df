"""Convert a public SPNet checkpoint into weights that load into our models."""

import argparse
from pathlib import Path

from sceneparse.cli.command import command_parser, writing
from sceneparse.errors import InputError

EXAMPLES = """\
  sceneparse weights SPNet101_ade20k.pth.tar spnet101_ade20k.safetensors

Training starts from its backbone by
  sceneparse train --config ade20k_spnet101 model.pretrained=spnet101_ade20k.safetensors
and a model in Python takes all its weights by
  model.load_state_dict(sceneparse.models.weights.read_weights("spnet101_ade20k.safetensors"))"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("weights", "Convert a public SPNet checkpoint.", EXAMPLES)
    result.add_argument("source", metavar="IN", help="published .pth, .pt or .tar file")
    result.add_argument("target", metavar="OUT", help=".safetensors file to write")
    return result


def main(options: argparse.Namespace) -> None:
    """Read the checkpoint, rename its weights, load them into their network, write them."""
    from safetensors.torch import save_file

    from sceneparse.models import create_segmentation_model
    from sceneparse.models.costs import count_parameters
    from sceneparse.models.official_spnet import convert_official_spnet, official_architecture
    from sceneparse.models.weights import load_strict, read_weights

    target = Path(options.target)
    if target.suffix != ".safetensors":
        raise InputError(f"OUT must end in .safetensors, got '{target}'")
    if target.exists():
        raise InputError(f"'{target}' exists already; choose another name or remove it")
    state = convert_official_spnet(read_weights(options.source))
    arguments = official_architecture(state)
    model = create_segmentation_model(**arguments)
    load_strict(model, state, options.source)
    with writing(target):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    print(f"{len(state)} tensors, {count_parameters(model):,} parameters in {target}")
    print(f"they are all weights of sceneparse.create_segmentation_model({shown})")
