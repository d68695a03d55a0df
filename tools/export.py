"""Export a trained model to a file that runs without its code, and check it against the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from sceneparse.cli import run, tool_parser

EXAMPLES = """\
  python tools/export.py runs/quickstart --format onnx
  python tools/export.py runs/quickstart --format onnx --argmax --normalize --output street.onnx
  python tools/export.py runs/quickstart --format onnx --fixed 512 1024
  python tools/export.py runs/quickstart --format safetensors

The file is compared with the model at three sizes it was not traced at; where they differ, it is
removed (exit code 1). An ONNX file takes any number of images of any size and holds classes,
colours and normalisation; tools/predict.py and tools/eval_miou.py run it as they run a model."""
SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors"}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = tool_parser("Export a trained segmentation model.", EXAMPLES)
    result.add_argument("checkpoint", metavar="RUN_OR_CHECKPOINT", help="run or checkpoint folder")
    result.add_argument("--format", required=True, choices=SUFFIXES, help="kind of file")
    result.add_argument("--output", metavar="FILE", help="default: RUN/model.FORMAT")
    result.add_argument(
        "--normalize", action="store_true", help="take RGB values 0..255 instead of normalised ones"
    )
    result.add_argument(
        "--argmax", action="store_true", help="give labels of whole images instead of logits"
    )
    result.add_argument(
        "--fixed", nargs=2, type=int, metavar=("H", "W"), help="one image of one size only"
    )
    return result


def main(options: argparse.Namespace) -> None:
    """Load the model, write the file, say how far it is from the model."""
    from sceneparse.checkpoint import load_segmentation_model
    from sceneparse.errors import InputError
    from sceneparse.export import export_onnx, export_safetensors

    path = Path(options.output or Path(options.checkpoint) / f"model{SUFFIXES[options.format]}")
    if path.suffix != SUFFIXES[options.format]:
        raise InputError(f"--output must end in {SUFFIXES[options.format]}, got '{path}'")
    if options.fixed and min(options.fixed) < 1:
        raise InputError(f"--fixed takes a height and a width, got {options.fixed}")
    model = load_segmentation_model(options.checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if options.format == "safetensors":
            differences = export_safetensors(model, path)
        else:
            differences = export_onnx(
                model,
                path,
                normalize=options.normalize,
                argmax=options.argmax,
                fixed=tuple(options.fixed) if options.fixed else None,
            )
    except OSError as error:
        raise InputError(f"cannot write '{path}': {error.strerror}") from error
    for size, difference in differences.items():
        print(f"difference at {size}: {difference:.2g}")
    print(f"exported     {path} ({path.stat().st_size / 2**20:.1f} MB)")


if __name__ == "__main__":
    run(parser(), main)
