"""Export a trained model to a file that runs without its code, and check it against the model."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser

if TYPE_CHECKING:
    from sceneparse.models.segmentation import SegmentationModel

EXAMPLES = """\
  sceneparse export runs/quickstart --format onnx
  sceneparse export runs/quickstart --format onnx --argmax --normalize --output street.onnx
  sceneparse export runs/quickstart --format onnx --fixed 513 1025
  sceneparse export runs/quickstart --format onnx --int8 --calibrate data/quickstart
  sceneparse export runs/quickstart --format pt2
  sceneparse export runs/quickstart --format safetensors

The file takes any number of images of any size, and holds classes, colours and normalisation. It is
compared with the model at three sizes it was not traced at; where they differ, it is removed (exit
code 1): logits by more than a thousandth of the largest, labels in more than a thousandth of the
pixels, in int8 in more than 5%. `sceneparse predict` and `sceneparse evaluate` take
ONNX and safetensors files in place of a run.
  onnx         for ONNX Runtime and others; float32, or with --int8 bytes
  pt2          for programs that call torch.export.load; predict and evaluate do not read it
  safetensors  the weights alone, for this package"""
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("export", "Export a trained segmentation model.", EXAMPLES)
    result.add_argument("checkpoint", metavar="RUN", help="run or checkpoint folder")
    result.add_argument("--format", required=True, choices=SUFFIXES, help="kind of file")
    result.add_argument(
        "--output", metavar="FILE", help="default: RUN/model.FORMAT, model_int8.onnx"
    )
    graph = result.add_argument_group("graph", "onnx and pt2")
    graph.add_argument(
        "--normalize", action="store_true", help="take RGB values 0..255 instead of normalised ones"
    )
    graph.add_argument(
        "--argmax", action="store_true", help="give labels of whole images instead of logits"
    )
    size = graph.add_mutually_exclusive_group()
    size.add_argument(
        "--dynamic", action="store_true", help="any number of images of any size (the default)"
    )
    size.add_argument(
        "--fixed", nargs=2, type=int, metavar=("H", "W"), help="onnx: one image of one size only"
    )
    int8 = result.add_argument_group("int8", "onnx: faster, nearly the same labels")
    int8.add_argument("--int8", action="store_true", help="multiply bytes; needs --calibrate")
    int8.add_argument(
        "--calibrate", metavar="DATA", help="data folder whose images it is fitted to"
    )
    int8.add_argument("--split", default="train", help="of the data folder (train)")
    int8.add_argument("--images", type=int, default=36, metavar="N", help="of the split (36)")
    int8.add_argument(
        "--float-layers",
        type=int,
        metavar="N",
        help="so many first convolutions stay in float32 (those of under 32 channels)",
    )
    return result


def main(options: argparse.Namespace) -> None:
    """Load the model, write the file, say how far it is from the model."""
    from sceneparse.errors import InputError
    from sceneparse.runs.checkpoint import load_segmentation_model

    path = output_of(options)
    check_options(options)
    model = load_segmentation_model(options.checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = write(options, model, path)
    except OSError as error:
        raise InputError(f"cannot write '{path}': {error.strerror}") from error
    print("\n".join(lines))
    print(f"exported     {path} ({path.stat().st_size / 2**20:.1f} MB)")


def output_of(options: argparse.Namespace) -> Path:
    """Return the file to write."""
    from sceneparse.errors import InputError

    suffix = SUFFIXES[options.format]
    name = f"model_int8{suffix}" if options.int8 else f"model{suffix}"
    path = Path(options.output or Path(options.checkpoint) / name)
    if path.suffix != suffix:
        raise InputError(f"--output must end in {suffix}, got '{path}'")
    return path


def check_options(options: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together."""
    from sceneparse.errors import InputError

    if options.fixed and min(options.fixed) < 1:
        raise InputError(f"--fixed takes a height and a width, got {options.fixed}")
    if options.float_layers is not None and options.float_layers < 0:
        raise InputError(f"--float-layers must be 0 or more, got {options.float_layers}")
    if options.int8 != (options.calibrate is not None):
        raise InputError("--int8 and --calibrate DATA go together")
    useless = {
        "pt2": ("fixed", "int8"),
        "safetensors": ("normalize", "argmax", "dynamic", "fixed", "int8"),
    }.get(options.format, ())
    given = [f"--{name}" for name in useless if getattr(options, name)]
    if given:
        raise InputError(f"--format {options.format} does not go with {', '.join(given)}")


def write(options: argparse.Namespace, model: SegmentationModel, path: Path) -> list[str]:
    """Write the file and compare it; returns what was found."""
    from sceneparse.export import export_int8, export_onnx, export_pt2, export_safetensors
    from sceneparse.export.quantization import calibration_images
    from sceneparse.runtime.progress import Progress

    graph: dict[str, Any] = {"normalize": options.normalize, "argmax": options.argmax}
    fixed = tuple(options.fixed) if options.fixed else None
    if options.format == "safetensors":
        return export_safetensors(model, path)
    if options.format == "pt2":
        return export_pt2(model, path, **graph)
    if not options.int8:
        return export_onnx(model, path, fixed=fixed, **graph)
    images = calibration_images(options.calibrate, options.split, model.meta, options.images)
    # Begun with the first image, after the graph was traced.
    progress = cache(lambda: Progress(len(images), "images"))
    lines = export_int8(
        model,
        path,
        images,
        lambda count: progress().advance(count),
        float_layers=options.float_layers,
        fixed=fixed,
        **graph,
    )
    progress().close()
    return lines
