"""Predict images, folders, videos or a camera with a trained model: label maps and pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.cli.command import OTHER_OUTPUT, command_parser, writing
from sceneparse.cli.options import (
    add_device,
    add_option,
    add_protocol_options,
    add_quiet,
    number,
    protocol_settings,
)
from sceneparse.cli.output import print_summary
from sceneparse.errors import InputError, first_few, one_line
from sceneparse.inference.results import KINDS

if TYPE_CHECKING:
    from sceneparse.inference.job import Predicted
    from sceneparse.inference.predictor import Predictor

EXAMPLES = """\
  sceneparse predict runs/quickstart street.jpg
  sceneparse predict runs/quickstart photos/ "more/*.jpg" --save index color
  sceneparse predict runs/quickstart photos/ --abstain 0.7
  sceneparse predict runs/camvid_mobilenet drive.mp4
  sceneparse predict runs/camvid_mobilenet camera:0 --frames 100
  find photos -name "*.png" | sceneparse predict runs/quickstart -
  sceneparse predict runs/cityscapes_spnet101 leftImg8bit/test --save raw --protocol spnet

Results are OUTPUT/shares.json, the share of each class per image, and OUTPUT/KIND/NAME.png for each
KIND of --save:
  index          class numbers, with a palette (16-bit grey above 256 classes)
  color          the colours of the classes
  overlay        these colours blended with the image, and the names of the classes
  raw            the dataset's own label values, as its submission server expects them
  probabilities  NAME.npz: probabilities (classes, height, width) in float16
With --abstain, pixels without a class are 255 (65535 in 16-bit files) in index and raw, black in
color, and not painted in overlay; shares.json counts them for no class.
A video becomes OUTPUT/overlay/NAME.mp4; the other kinds get a file per frame.
Results of earlier predictions among the inputs are skipped and counted. What Windows refuses in
names is encoded in those of results: a:b.png becomes a%3Ab.png.
Exit code 2: some inputs could not be predicted; all others were."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("predict", "Predict images with a trained model.", EXAMPLES)
    result.add_argument("checkpoint", metavar="RUN", help="run folder, checkpoint or exported file")
    result.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder, glob, camera:NUMBER, or - to read names from standard input",
    )
    add = partial(add_option, result)
    add("--output FOLDER", "folder for the results", default="predictions")
    add("--save KIND...", "what to write", choices=KINDS, default=["index", "overlay"])
    add("--opacity X", "opacity of overlays, in 0..1", type=number(float, 0, 1), default=0.5)
    unsure = "give no class to pixels whose confidence is below X, see below"
    add("--abstain X", unsure, type=confidence)
    add("--frames N", "stop a video or camera after N frames", type=number(int, 1))
    add_device(result)
    add_quiet(result)
    add_protocol_options(result)
    return result


def confidence(text: str) -> float:
    """Read a number between 0 and 1, both excluded."""
    with suppress(ValueError):
        if 0 < (value := float(text)) < 1:
            return value
    raise argparse.ArgumentTypeError(f"must be above 0 and below 1, got '{text}'")


def main(options: argparse.Namespace) -> None:
    """Predict all inputs; raise InputError if some failed."""
    from sceneparse.inference.job import find_inputs, predict_inputs
    from sceneparse.inference.predictor import Predictor
    from sceneparse.inference.writer import Writer

    cameras, names = split_inputs(options.inputs)
    output = Path(options.output)
    sources, skipped = find_inputs(names, output, cameras)
    if skipped:
        print(one_line(f"skipped      {skipped}"))
    writer = Writer(output, options.save, options.opacity)
    # An error comes before the seconds that a model needs to load.
    writer.require_own_files(sources)
    predictor = Predictor(
        options.checkpoint,
        device=options.device,
        abstain=options.abstain,
        **protocol_settings(options),
    )
    print(f"protocol     {predictor.protocol.description}")
    with writing(options.output, OTHER_OUTPUT):
        found = predict_inputs(predictor, sources, writer, cameras=cameras, frames=options.frames)
    print_summary("predict", rows_of(predictor, found, options.save), next_command(options))
    if found.failures:
        raise InputError(
            f"{len(found.failures)} inputs could not be predicted: {first_few(found.failures)}"
        )


def rows_of(predictor: Predictor, found: Predicted, save: Sequence[str]) -> dict[str, object]:
    """Return the summary: how many inputs were predicted, pixels without a class, the folders."""
    from sceneparse.inference.results import SHARES_FILE

    unsure = {} if found.abstained is None else abstained_rows(predictor, found.abstained)
    return {
        "predicted": f"{len(found.shares)} of {found.inputs} inputs",
        **unsure,
        **{kind: found.output / kind for kind in [*save][-2:]},
        "shares": found.output / SHARES_FILE,
    }


def next_command(options: argparse.Namespace) -> list[str]:
    """Return the command that exports the run; of a file that is exported already, nothing."""
    if Path(options.checkpoint).suffix in {".onnx", ".pt2", ".safetensors"}:
        return []
    return ["sceneparse", "export", options.checkpoint, "--format", "onnx"]


def abstained_rows(predictor: Predictor, share: float) -> dict[str, str]:
    """Return the share of pixels without a class, and the expected error of the others.

    Above the highest threshold of the calibration, the error is not known, only that at it.
    """
    import numpy as np

    threshold, calibration = predictor.abstain or 0.0, predictor.calibration
    rows = {"abstained": f"{share:.2%} of the pixels, with a confidence below {threshold:g}"}
    if calibration is None:
        return rows
    # At some thresholds no pixel was left.
    risk = calibration["risk"]
    pairs = zip(risk["thresholds"], risk["error"], strict=True)
    known = np.array([pair for pair in pairs if pair[1] is not None])
    error = float(np.interp(threshold, known[:, 0], known[:, 1]))
    what = f"{error:.2%} of the other pixels are wrong, as"
    if threshold > (highest := known[-1, 0]):
        what = f"not known; {error:.2%} of those with a confidence of {highest:g} or more are wrong"
    where = f"{calibration['images']} images of split {calibration['split']}"
    if calibration["protocol"] != predictor.protocol.description:
        where += f" under another protocol ({calibration['protocol']})"
    rows["expected"] = f"{what} on {where}"
    return rows


def split_inputs(inputs: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the numbers of cameras, and the names of files, also those on standard input."""
    cameras: list[int] = []
    names: list[str] = []
    for given in inputs:
        kind, _, number = given.partition(":")
        if kind == "camera":
            if not number.isdecimal():
                raise InputError(f"give a camera by its number, as in camera:0; got '{given}'")
            cameras.append(int(number))
        elif given == "-":
            # Windows may begin a text with a mark of its byte order.
            lines = [line.strip().removeprefix("\ufeff") for line in sys.stdin]
            names += filter(None, lines)
        else:
            names.append(given)
    return cameras, names
