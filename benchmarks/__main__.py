"""Measure sceneparse against plain implementations, and against the limits of the machine."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser, run
from sceneparse.runtime.threads import set_threads

if TYPE_CHECKING:
    from benchmarks.rows import Row
    from sceneparse.training.run import Training

_CONFIGS = Path(__file__).parents[1] / "configs"
# Benchmarks that are modules with a parser of their own.
WITH_OWN_OPTIONS = ("auto", "label_errors", "peers", "peers_accuracy")
EXAMPLES = """\
  python -m benchmarks all --markdown
  python -m benchmarks infer --json infer.json --picture infer.png
  python -m benchmarks attention
  python -m benchmarks heads
  python -m benchmarks peers --help
  python -m benchmarks peers_accuracy --help
  python -m benchmarks auto --help
  python -m benchmarks label_errors --help"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser(
        "benchmark", "Measure sceneparse and references in turns, in one run.", EXAMPLES
    )
    result.prog = "python -m benchmarks"
    result.add_argument(
        "what",
        choices=[
            *("all", "attention", "cls", "data", "eval", "heads", "infer", "loaded", "scale"),
            "train",
        ],
        help="infer: a network on an image; train: training steps; data: decoding, augmentation; "
        "eval: time of an evaluation outside the network; cls: input of classifiers; all: these "
        "five, 4 to 17 minutes on two cores; attention: cost of the blocks in a classifier; heads: "
        "cost of heads; loaded: training beside a busy process; scale: two processes, gradient "
        "checkpointing",
    )
    result.add_argument("--json", metavar="FILE", help="write the rows to this file as well")
    result.add_argument("--picture", metavar="FILE", help="draw the ratios (.png, .svg, .pdf)")
    result.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return result


def main(options: argparse.Namespace) -> None:
    """Measure, print the table, write the files."""
    from benchmarks.limits import describe_machine
    from benchmarks.picture import check_picture
    from benchmarks.rows import as_table, check_folders

    check_folders(options.json, options.picture)
    if options.picture is not None:
        check_picture(Path(options.picture))
    print("measuring the limits of the machine", file=sys.stderr)
    print(describe_machine(), end="\n\n", flush=True)
    rows: list[Row] = []
    parts = _measurements(options.what)
    for number, (name, measure) in enumerate(parts.items(), start=1):
        print(f"measuring {name} ({number} of {len(parts)})", file=sys.stderr)
        rows += measure()
    table = as_table(rows)
    print(table.as_markdown() if options.markdown else table.as_text())
    _write(rows, options)


def _write(rows: list[Row], options: argparse.Namespace) -> None:
    from benchmarks.picture import draw_ratios
    from benchmarks.rows import write_json
    from sceneparse.errors import InputError

    for write, path in ((write_json, options.json), (draw_ratios, options.picture)):
        try:
            if path is not None:
                write(rows, Path(path))
        except OSError as error:
            raise InputError(f"cannot write '{path}': {error}") from error


def prepare_recipe(recipe: str, settings: Sequence[str]) -> Training:
    """Prepare a run of a recipe, a file in configs/, with changed settings."""
    import torch

    from sceneparse.config.loading import load_config
    from sceneparse.config.segmentation import SegConfig
    from sceneparse.runtime.distributed import Process
    from sceneparse.training.segmentation import prepare_training

    config = load_config(_CONFIGS / recipe, settings, SegConfig)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with redirect_stdout(io.StringIO()):  # hides what a run prints
        return prepare_training(config, Process(0, 1, device))


def _measurements(what: str) -> dict[str, Callable[[], list[Row]]]:
    from benchmarks import attention, cls, data, heads, infer, loaded, scale, train
    from benchmarks import eval as testing

    if what == "heads":
        print(heads.costs(), end="\n\n")
    parts: dict[str, Callable[[], list[Row]]] = {
        "infer": infer.measure,
        "train": partial(train.measure, prepare_recipe),
        "data": data.measure,
        "eval": testing.measure,
        "cls": cls.measure,
    }
    others = {"attention": attention, "heads": heads, "loaded": loaded, "scale": scale}
    rest = {name: module.measure for name, module in others.items()}
    return parts if what == "all" else {what: {**parts, **rest}[what]}


if __name__ == "__main__":
    set_threads()  # as in the command, before PyTorch loads
    if sys.argv[1:2] and sys.argv[1] in WITH_OWN_OPTIONS:
        own = import_module(f"benchmarks.{sys.argv[1]}")
        run(own.parser(), own.main, sys.argv[2:])
    run(parser(), main)
