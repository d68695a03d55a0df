"""Write a dataset of synthetic street scenes in the ordinary folder layout."""

import argparse
from functools import partial
from pathlib import Path

from sceneparse.cli.command import command_parser, writing
from sceneparse.cli.options import add_option, add_quiet, number
from sceneparse.cli.output import print_result

EXAMPLES = """\
  sceneparse scenes data/quickstart
  sceneparse scenes /tmp/scenes --train 1000 --val 100 --size 256 512 --seed 7"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("scenes", "Write synthetic street scenes with label masks.", EXAMPLES)
    result.add_argument("root", metavar="DATA", help="folder for the scenes, e.g. data/quickstart")
    add, count = partial(add_option, result), number(int, 1)
    add("--train N", "number of training scenes", type=count, default=240)
    add("--val N", "number of validation scenes", type=count, default=40)
    add("--size H W", "height and width of a scene", type=number(int, 32), default=(256, 384))
    add("--seed N", "random seed of the scenes; default 0", type=number(int, 0), default=0)
    add_quiet(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Write the scenes."""
    from sceneparse.data.synthetic import CLASSES, write_dataset
    from sceneparse.runtime.progress import Progress

    counts, (height, width) = {"train": options.train, "val": options.val}, options.size
    root, size = Path(options.root), (height, width)
    with writing(root), Progress("draw", sum(counts.values()), "scenes") as progress:
        write_dataset(root, counts, size=size, seed=options.seed, after_scene=progress.advance)
    print_result(
        f"{options.train} training and {options.val} validation scenes of {width}x{height} pixels "
        f"with {len(CLASSES)} classes in {options.root}\n"
    )
