"""Run the command `sceneparse`: find the verb, import its file alone, and call it."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from sceneparse.cli.command import exit_without_reader, run, version_block
from sceneparse.errors import one_line
from sceneparse.runtime.threads import set_threads

# Verb, which is also its file in this folder -> what it does.
COMMANDS = {
    "auto": "train the best model that a time allows, from a folder of images and masks",
    "train": "train a segmentation model",
    "evaluate": "score a model on a labelled split: mean IoU with intervals, pictures, report",
    "calibrate": "fit the temperature of a model's confidences on a labelled split",
    "score": "score label files of any program against masks",
    "predict": "label images, folders, videos or a camera with a model",
    "demo": "show what one or two models find in pictures, in a browser on this machine",
    "check": "check every file of a dataset for damage and wrong labels",
    "convert": "convert annotations of other programs into folders of images and masks",
    "export": "export a model as ONNX, .pt2 or safetensors, and compare the file with it",
    "classify": "train image classifiers, one run per seed",
    "compare": "compare finished runs: scores with intervals, paired tests, costs",
    "study": "train and test several settings over several seeds",
    "sweep": "search the best settings of a classifier",
    "scenes": "write a dataset of synthetic street scenes to try everything on",
    "weights": "convert published weights of SPNet and of ResNet classifiers",
    "recipes": "list the recipes that come with sceneparse, or print one",
    "backbones": "list backbones with their costs, sizes and licences",
}
_LISTED = "\n".join(f"  {verb:<9}  {purpose}" for verb, purpose in COMMANDS.items())
HELP = f"""\
usage: sceneparse COMMAND ...

Scene parsing (semantic segmentation): train, evaluate, predict, export.

commands:
{_LISTED}

examples:
  sceneparse auto photos --time 20m
  sceneparse scenes data/quickstart && sceneparse train --config quickstart
  sceneparse evaluate runs/quickstart --report
  sceneparse predict runs/quickstart photos/

`sceneparse COMMAND --help` explains a command, `sceneparse --version` prints the versions."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `sceneparse VERB ...` and exit with its code; without a verb, print the help."""
    set_threads()
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in {"-h", "--help", "--version"}:
        try:
            print(version_block() if verb == "--version" else HELP, flush=True)
        except BrokenPipeError:
            exit_without_reader()
        sys.exit(0)
    if verb not in COMMANDS:
        near = difflib.get_close_matches(verb, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(COMMANDS)}"
        sys.stderr.write(f"error: unknown command '{one_line(verb)}'; {hint}\n")
        sys.exit(2)
    command = import_module(f"sceneparse.cli.{verb}")
    run(command.parser(), command.main, rest)
