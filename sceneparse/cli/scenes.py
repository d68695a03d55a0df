"""Write a data set of synthetic street scenes in the ordinary folder layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from sceneparse.cli.command import command_parser

EXAMPLES = """\
  sceneparse scenes data/quickstart
  sceneparse scenes /tmp/scenes --train 1000 --val 100 --size 256 512 --seed 7"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("scenes", "Write synthetic street scenes with label masks.", EXAMPLES)
    result.add_argument(
        "root", help="folder to write train/, val/, classes.txt and colors.txt into"
    )
    result.add_argument("--train", type=int, default=240, help="scenes for training (240)")
    result.add_argument("--val", type=int, default=40, help="scenes for validation (40)")
    result.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(256, 384),
        metavar=("H", "W"),
        help="of a scene (256 384)",
    )
    result.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    return result


def main(options: argparse.Namespace) -> None:
    """Check the numbers and write the scenes."""
    from sceneparse.data.synthetic import CLASSES, write_dataset
    from sceneparse.errors import InputError

    if min(options.train, options.val) < 1 or min(options.size) < 32 or options.seed < 0:
        raise InputError("needs at least 1 scene per split, 32 pixels a side and a seed from 0")
    counts = {"train": options.train, "val": options.val}
    try:
        write_dataset(Path(options.root), counts, size=tuple(options.size), seed=options.seed)
    except OSError as error:
        raise InputError(f"cannot write into '{options.root}': {error.strerror}") from error
    print(
        f"{options.train} training and {options.val} validation scenes of {options.size[1]}x"
        f"{options.size[0]} pixels with {len(CLASSES)} classes in {options.root}"
    )
