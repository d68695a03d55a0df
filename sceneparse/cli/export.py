"""Export a trained model to a file that runs without its code, and check it against the model."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import OTHER_OUTPUT, command_parser, create_output, writing
from sceneparse.cli.options import add_option, add_quiet, number
from sceneparse.cli.output import print_summary
from sceneparse.errors import InputError

if TYPE_CHECKING:
    from sceneparse.models.segmentation import SegmentationModel

EXAMPLES = """\
  sceneparse export runs/quickstart --format onnx
  sceneparse export runs/quickstart --format onnx --argmax --normalize --output street.onnx
  sceneparse export runs/quickstart --format onnx --fixed 513 1025
  sceneparse export runs/quickstart --format onnx --int8 --calibrate data/quickstart
  sceneparse export runs/quickstart --format pt2
  sceneparse export runs/quickstart --format safetensors

The file takes any number of images of any size, and holds classes, colours and normalisation.
It is compared with the model at three sizes it was not traced at, and removed (exit code 1) if
  logits differ by more than a thousandth of the largest,
  labels differ in more than a thousandth of the pixels, or in int8 in more than 5%.
An int8 file stores the sizes at which it was compared; prediction warns about smaller images.
Formats:
  onnx         for ONNX Runtime and other programs; float32, or int8
  pt2          for programs that call torch.export.load
  safetensors  the weights alone, for this package
`sceneparse predict` and `sceneparse evaluate` accept onnx and safetensors in place of a run."""
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("export", "Export a trained segmentation model.", EXAMPLES)
    result.add_argument("checkpoint", metavar="RUN", help="run folder or checkpoint")
    add = partial(add_option, result)
    add("--format FORMAT", "format of the file", choices=SUFFIXES, required=True)
    add("--output FILE", "file to write; default RUN/model.FORMAT, with --int8 RUN/model_int8.onnx")
    add_quiet(result)
    graph = result.add_argument_group("graph", "for onnx and pt2")
    add = partial(add_option, graph)
    add("--normalize", "take RGB in 0..255 instead of normalised values")
    add("--argmax", "return labels of image size instead of logits")
    size = graph.add_mutually_exclusive_group()
    add_option(size, "--dynamic", "take any number of images of any size (default)")
    add_option(size, "--fixed H W", "onnx: take one image of this size only", type=number(int, 1))
    int8 = result.add_argument_group("int8", "onnx only: faster, nearly the same labels")
    add = partial(add_option, int8)
    add("--int8", "compute convolutions in int8; needs --calibrate")
    add("--calibrate DATA", "dataset whose images calibrate int8")
    add("--split SPLIT", "split of these images", default="train")
    add("--images N", "number of these images", type=number(int, 8), default=36)
    kept = "keep the first N convolutions in float32; default all before the first of 32 channels"
    add("--float-layers N", kept, type=number(int, 0))
    return result


def main(options: argparse.Namespace) -> None:
    """Load the model, write the file, print how far it is from the model."""
    from sceneparse.models.origin import recorded_origin
    from sceneparse.runs.checkpoint import load_segmentation_model

    path = output_of(options)
    check_options(options)
    model = load_segmentation_model(options.checkpoint)
    with writing(path, OTHER_OUTPUT):
        create_output(path.parent)
        lines = write(options, model, path)
    print("compared with the model, at images x height x width:", *lines, sep="\n  ")
    size = f"{path.stat().st_size / 2**20:.1f} MB, agrees with the model"
    rows: dict[str, object] = {"exported": path, "size": size}
    if origin := recorded_origin(model.meta, "not recorded"):
        rows["licence"] = f"{origin['licence']} (pretrained weights: {origin['weights']})"
    # Other programs read .pt2 files; prediction does not.
    predict = ["sceneparse", "predict", str(path), "PHOTOS"] if path.suffix != ".pt2" else []
    print_summary("export", rows, predict)


def output_of(options: argparse.Namespace) -> Path:
    """Return the file to write; raise InputError for a wrong suffix, or a checkpoint's weights."""
    from sceneparse.models.stored import META_FILE, MODEL_FILE, follow_pointer

    suffix = SUFFIXES[options.format]
    name = f"model_int8{suffix}" if options.int8 else f"model{suffix}"
    path = Path(options.output or follow_pointer(Path(options.checkpoint)) / name)
    if path.suffix != suffix:
        raise InputError(f"--output must end in {suffix}, got '{path}'")
    if path.name == MODEL_FILE and (path.parent / META_FILE).is_file():
        raise InputError(f"'{path}' holds the checkpoint's own weights; give another --output FILE")
    return path


def check_options(options: argparse.Namespace) -> None:
    """Raise InputError for options that cannot be combined."""
    if options.int8 != (options.calibrate is not None):
        raise InputError("--int8 and --calibrate DATA must be given together")
    useless = {
        "pt2": ("fixed", "int8"),
        "safetensors": ("normalize", "argmax", "dynamic", "fixed", "int8"),
    }.get(options.format, ())
    if given := [f"--{name}" for name in useless if getattr(options, name)]:
        raise InputError(f"--format {options.format} cannot be combined with {', '.join(given)}")


def write(options: argparse.Namespace, model: SegmentationModel, path: Path) -> list[str]:
    """Write the file, compare it with the model, and return what was found."""
    from sceneparse.export import export_onnx, export_pt2, export_safetensors
    from sceneparse.export.quantization import calibration_images

    if options.format == "safetensors":
        return export_safetensors(model, path)
    graph: dict[str, Any] = {"normalize": options.normalize, "argmax": options.argmax}
    if options.format == "pt2":
        return export_pt2(model, path, **graph)
    graph["fixed"] = tuple(options.fixed) if options.fixed else None
    if not options.int8:
        return export_onnx(model, path, **graph)
    images = calibration_images(options.calibrate, options.split, model.meta, options.images)
    return export_onnx(model, path, **graph, int8_images=images, float_layers=options.float_layers)
