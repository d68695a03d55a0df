"""The command `sceneparse`: finds the verb, imports its file alone, and runs it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from sceneparse.cli.command import run, version_block
from sceneparse.errors import one_line

# verb (its file in this folder) -> what it does.
COMMANDS = {
    "train": "train a segmentation model",
    "evaluate": "score a model on a labelled split: mean IoU with intervals, pictures, report",
    "predict": "label images, folders, videos or a camera with a model",
    "check": "look at every file of a data set for damage and wrong labels",
    "convert": "turn annotations of other programs into folders of images and masks",
    "export": "write a model as ONNX, .pt2 or safetensors, and check it against the original",
    "classify": "train image classifiers, a run per seed",
    "compare": "compare finished runs: scores with intervals, paired tests, costs",
    "study": "train and test rows of settings over several seeds",
    "sweep": "search the settings of classifiers",
    "scenes": "write synthetic street scenes to try everything on",
    "weights": "convert published SPNet weights",
    "recipes": "list the recipes that come with sceneparse, or print one",
}
EXAMPLES = """\
  sceneparse scenes data/quickstart && sceneparse train --config quickstart
  sceneparse evaluate runs/quickstart --report
  sceneparse predict runs/quickstart photos/"""


def help_text() -> str:
    """List the commands, a line each, and three examples."""
    wide = max(map(len, COMMANDS))
    lines = [f"  {verb:<{wide}}  {purpose}" for verb, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: sceneparse COMMAND ...",
            "",
            "Scene parsing (semantic segmentation): train, evaluate, predict, export.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            EXAMPLES,
            "",
            "sceneparse COMMAND --help explains a command, sceneparse --version prints versions.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `sceneparse VERB ...` and exit with its code; without a verb, print the help."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in {"-h", "--help"}:
        _print_and_exit(help_text())
    if verb == "--version":
        _print_and_exit(version_block())
    if verb not in COMMANDS:
        _refuse_unknown(verb)
    command = import_module(f"sceneparse.cli.{verb}")
    run(command.parser(), command.main, rest)


def _print_and_exit(text: str) -> NoReturn:
    sys.stdout.write(text + "\n")
    sys.exit(0)


def _refuse_unknown(verb: str) -> NoReturn:
    nearest = difflib.get_close_matches(verb, COMMANDS, n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"choose from {', '.join(COMMANDS)}"
    sys.stderr.write(f"error: unknown command '{one_line(verb)}'; {hint}\n")
    sys.exit(2)
