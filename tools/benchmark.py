"""Measure sceneparse beside plain ways of doing the same."""

from __future__ import annotations

import argparse
from pathlib import Path

from sceneparse.cli import run, tool_parser

EXAMPLES = """\
  python tools/benchmark.py data
  python tools/benchmark.py data --json data.json
  python tools/benchmark.py eval
  python tools/benchmark.py cls
  python tools/benchmark.py attention
  python tools/benchmark.py heads"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = tool_parser("Measure ours and a reference in turns, in one run.", EXAMPLES)
    result.add_argument(
        "what",
        choices=["attention", "cls", "data", "eval", "heads"],
        help="attention: cost of the blocks in a classifier; cls: feeding classifiers; data: "
        "decoding, augmentation; eval: testing beside the network; heads: cost of heads",
    )
    result.add_argument("--json", metavar="FILE", help="write the rows to this file as well")
    return result


def main(options: argparse.Namespace) -> None:
    """Measure, print the table, write the file."""
    from sceneparse.benchmark import attention, cls, data, heads
    from sceneparse.benchmark import eval as testing
    from sceneparse.benchmark.rows import text_table, write_json
    from sceneparse.errors import InputError

    if options.what == "heads":
        print(heads.costs(), end="\n\n")
    measured = {
        "attention": attention.measure,
        "cls": cls.measure,
        "data": data.measure,
        "eval": testing.measure,
        "heads": heads.measure,
    }
    rows = measured[options.what]()
    print(text_table(rows))
    if options.json:
        try:
            write_json(rows, Path(options.json))
        except OSError as error:
            raise InputError(f"cannot write '{options.json}': {error.strerror}") from error


if __name__ == "__main__":
    run(parser(), main)
