"""Measure sceneparse beside plain ways of doing the same, and beside what the machine can do."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser, run

if TYPE_CHECKING:
    from sceneparse.benchmark.rows import Row
    from sceneparse.training import Training

_QUICKSTART = Path(__file__).parents[1] / "configs/quickstart.yaml"
EXAMPLES = """\
  python tools/benchmark.py all --markdown
  python tools/benchmark.py infer --json infer.json --picture infer.png
  python tools/benchmark.py attention
  python tools/benchmark.py heads"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("benchmark", "Measure ours and a reference in turns, in one run.", EXAMPLES)
    result.add_argument(
        "what",
        choices=["all", "attention", "cls", "data", "eval", "heads", "infer", "scale", "train"],
        help="infer: a network on an image; train: training steps; data: decoding, augmentation; "
        "eval: testing beside the network; cls: feeding classifiers; all: these five, 4 to 17 "
        "minutes on two cores; "
        "attention: cost of the blocks in a classifier; heads: cost of heads; "
        "scale: two processes, gradient checkpointing",
    )
    result.add_argument("--json", metavar="FILE", help="write the rows to this file as well")
    result.add_argument("--picture", metavar="FILE", help="draw the ratios (.png, .svg, .pdf)")
    result.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return result


def main(options: argparse.Namespace) -> None:
    """Measure, print the table, write the files."""
    from sceneparse.benchmark.limits import machine_words
    from sceneparse.benchmark.rows import as_table

    _refuse_unwritable(options)
    print("measuring what the machine can do at most", file=sys.stderr)
    print(machine_words(), end="\n\n", flush=True)
    rows: list[Row] = []
    parts = _measurements(options.what)
    for number, (name, measure) in enumerate(parts.items(), start=1):
        print(f"measuring {name} ({number} of {len(parts)})", file=sys.stderr)
        rows += measure()
    table = as_table(rows)
    print(table.as_markdown() if options.markdown else table.as_text())
    _write(rows, options)


def _refuse_unwritable(options: argparse.Namespace) -> None:
    """Raise InputError now rather than after minutes of measuring."""
    from sceneparse.errors import InputError

    for path in filter(None, (options.json, options.picture)):
        if not Path(path).parent.is_dir():
            raise InputError(f"cannot write '{path}': '{Path(path).parent}' is not a folder")


def _write(rows: list[Row], options: argparse.Namespace) -> None:
    from sceneparse.benchmark.picture import draw_ratios
    from sceneparse.benchmark.rows import write_json
    from sceneparse.errors import InputError

    for write, path in ((write_json, options.json), (draw_ratios, options.picture)):
        try:
            if path is not None:
                write(rows, Path(path))
        except (OSError, ValueError) as error:  # matplotlib's of a suffix it does not know
            raise InputError(f"cannot write '{path}': {error}") from error


def _quickstart(settings: Sequence[str]) -> Training:
    """Prepare a run of the quickstart with some settings changed."""
    import torch

    from sceneparse.assembly.segmentation import prepare_training
    from sceneparse.config.loading import load_config
    from sceneparse.config.segmentation import SegConfig
    from sceneparse.distributed import Process

    config = load_config(_QUICKSTART, settings, SegConfig)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with redirect_stdout(io.StringIO()):  # what a run says of itself
        return prepare_training(config, Process(0, 1, device))


def _measurements(what: str) -> dict[str, Callable[[], list[Row]]]:
    from sceneparse.benchmark import attention, cls, data, heads, infer, scale, train
    from sceneparse.benchmark import eval as testing

    if what == "heads":
        print(heads.costs(), end="\n\n")
    parts: dict[str, Callable[[], list[Row]]] = {
        "infer": infer.measure,
        "train": partial(train.measure, _quickstart),
        "data": data.measure,
        "eval": testing.measure,
        "cls": cls.measure,
    }
    rest = {"attention": attention.measure, "heads": heads.measure, "scale": scale.measure}
    return parts if what == "all" else {what: {**parts, **rest}[what]}


if __name__ == "__main__":
    run(parser(), main)
