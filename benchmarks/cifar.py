"""Write the results of finished CIFAR runs: `python -m benchmarks.cifar FILE RUN [RUN]`.

Each RUN is an output folder of `sceneparse classify`; seeds that have not finished are listed and
left out. FILE gets [{block, seed, accuracy, loss, epochs, model}] of the last epoch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sceneparse.cli.command import command_parser, run, writing
from sceneparse.errors import InputError


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    text = "Write accuracy and loss of every finished seed to a file."
    example = "  python -m benchmarks.cifar results/cifar10_short.json runs/cifar10_short/*"
    result = command_parser("cifar", text, example)
    result.prog = "python -m benchmarks.cifar"
    result.add_argument("file", metavar="FILE", type=Path, help="JSON file to write")
    result.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder with seed-N")
    return result


def main(options: argparse.Namespace) -> None:
    """Write the rows, and list what is not finished."""
    from sceneparse.report.tables import write_json

    rows = list(rows_of(options.runs))
    with writing(options.file):
        write_json(options.file, rows)
    print(f"{len(rows)} finished runs in {options.file}")


def rows_of(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield a row per finished seed; raises InputError for a folder of something else."""
    from sceneparse.studies.classifiers import read_group

    for folder in folders:
        group = read_group(folder)
        for seed in group.unfinished:
            print(f"left out, not finished: {folder / seed}", file=sys.stderr)
        for curves in group.curves:
            config, seed = group.meta["config"], curves.seed.removeprefix("seed-")
            if not seed.isdecimal():
                raise InputError(f"the folder of a seed is called seed-N, not '{curves.seed}'")
            yield {
                "block": config["attention"],
                "seed": int(seed),
                "accuracy": float(curves.test_accuracy[-1]),
                "loss": float(curves.test_loss[-1]),
                "epochs": len(curves.test_accuracy),
                "model": config["model"],
            }


if __name__ == "__main__":
    run(parser(), main)
