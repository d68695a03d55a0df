"""Convert published weights (SPNet, ResNet classifiers) into weights that load into our models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser, writing
from sceneparse.cli.options import add_option
from sceneparse.errors import InputError, unknown_name

if TYPE_CHECKING:
    from sceneparse.models.weights import State

EXAMPLES = """\
  sceneparse weights SPNet101_ade20k.pth.tar spnet101_ade20k.safetensors --dataset ade20k
  sceneparse weights resnet20-12fca82f.th resnet20.safetensors

IN is a checkpoint of the SPNet authors, or a ResNet classifier whose last layer is called linear or
fc (resnet20 to resnet110 and resnet18 to resnet152). Training starts from OUT by
  sceneparse train --config ade20k_spnet101 model.pretrained=spnet101_ade20k.safetensors
  sceneparse classify --config cifar10_resnet18 model=resnet20 pretrained=resnet20.safetensors
and the networks are evaluated by
  sceneparse evaluate spnet101_ade20k.safetensors --data /data/ADEChallengeData2016 --protocol spnet
  sceneparse evaluate resnet20.safetensors --data data
In Python sceneparse.load_model(OUT) returns the network."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("weights", "Convert published weights.", EXAMPLES)
    result.add_argument("source", metavar="IN", help="published .pth, .pt, .th or .tar file")
    result.add_argument("target", metavar="OUT", help=".safetensors file to write")
    named = "dataset it was trained on, whose classes OUT then names; not for ResNet classifiers"
    add_option(result, "--dataset NAME", named)
    of = "in 0..1 of the images it was trained on; default: as published"
    add_option(result, "--mean R G B", f"mean {of}", type=float)
    add_option(result, "--std R G B", f"standard deviation {of}", type=float)
    return result


def main(options: argparse.Namespace) -> None:
    """Read the checkpoint, rename its weights, load them into their network, write them."""
    from safetensors.torch import save_file

    from sceneparse.models.costs import count_parameters
    from sceneparse.models.description import check_description
    from sceneparse.models.stored import META_KEY
    from sceneparse.models.weights import read_weights, rebuild

    target = Path(options.target)
    if target.suffix != ".safetensors":
        raise InputError(f"OUT must end in .safetensors, got '{target}'")
    if target.exists():
        raise InputError(f"'{target}' exists already; choose another name or remove it")
    builder, state, meta = _convert(read_weights(options.source))
    if options.dataset is not None:
        meta |= _described_data(options.dataset, meta["model"])
    for name in ("mean", "std"):
        meta[name] = getattr(options, name) or meta[name]
    check_description(meta, "--mean and --std")
    model = rebuild(builder, meta["model"], state, options.source)
    with writing(target):
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(tensors, target, {META_KEY: json.dumps(meta)})
    shown = ", ".join(f"{name}={value!r}" for name, value in meta["model"].items())
    print(f"{len(state)} tensors, {count_parameters(model):,} parameters in {target}")
    print(f"they are all weights of sceneparse.{builder.__name__}({shown})")
    print(f"images are normalised with mean {meta['mean']} and std {meta['std']}")


def _convert(state: State) -> tuple[Any, State, dict[str, Any]]:
    """Return the builder of the network, the weights under our names, and their description."""
    from sceneparse.models import create_segmentation_model, published_resnets
    from sceneparse.models.classification import create_classifier
    from sceneparse.models.official_spnet import convert_official_spnet, official_architecture

    if published_resnets.is_resnet_classifier(state):
        converted = published_resnets.convert_resnet_classifier(state)
        return create_classifier, converted, published_resnets.describe_resnet_classifier(converted)
    converted = convert_official_spnet(state)
    mean, std = published_resnets.IMAGENET_STATISTICS
    meta = {"model": official_architecture(converted), "mean": list(mean), "std": list(std)}
    return create_segmentation_model, converted, meta


def _described_data(dataset: str, model: dict[str, Any]) -> dict[str, Any]:
    """Return what a description says of the dataset; raise InputError if it does not fit."""
    from sceneparse.data.datasets import DATASETS
    from sceneparse.data.labels import load_label_table

    tables = {name: load_label_table(name) for name in DATASETS if name != "folder"}
    if dataset not in tables:
        raise unknown_name("dataset", dataset, tables)
    if "head" not in model:
        raise InputError("--dataset is for segmentation networks; IN is an image classifier")
    table, count = tables[dataset], model["num_classes"]
    if table.num_classes != count:
        fitting = " or ".join(name for name in tables if tables[name].num_classes == count)
        raise InputError(
            f"{dataset} has {table.num_classes} classes, the network {count}; "
            + (f"give --dataset {fitting}" if fitting else "leave --dataset out")
        )
    data = {"dataset": dataset, "val_split": "val"}
    return {"classes": table.names, "colors": [[*color] for color in table.colors], "data": data}
