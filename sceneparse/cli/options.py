"""Options that several commands share: settings of a training run, and inference protocols."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sceneparse.cli.command import command_parser
from sceneparse.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from sceneparse.config.types import Section

Settings = TypeVar("Settings", bound="Section")
Number = TypeVar("Number", int, float)


def number(
    kind: Callable[[str], Number], low: float, high: float = math.inf
) -> Callable[[str], Number]:
    """Return an argparse type that reads an int or a float in low..high."""
    allowed = f"{low} or more" if math.isinf(high) else f"in {low}..{high}"

    def read(text: str) -> Number:
        with suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"must be {allowed}, got '{text}'")

    return read


def add_option(
    parser: argparse._ActionsContainer,
    usage: str,
    meaning: str,
    **settings: Any,  # noqa: ANN401 - those of add_argument
) -> None:
    """Add an option as `--help` shows it: "--report", "--frames N", "--size H W", "--save KIND...".

    Without a placeholder it is a switch. Choices and default are appended to its meaning.
    """
    name, *values = usage.removesuffix("...").split()
    if not values:
        settings = {"action": "store_true", **settings}
    else:
        settings["metavar"] = values[0] if len(values) == 1 else tuple(values)
        settings["nargs"] = "+" if usage.endswith("...") else len(values) if values[1:] else None
    if choices := settings.get("choices"):
        meaning += f": {', '.join(choices)}"
    if default := settings.get("default"):
        shown = default if isinstance(default, list | tuple) else [default]
        meaning += f"; default {' '.join(map(str, shown))}"
    parser.add_argument(name, help=meaning.replace("%", "%%"), **settings)


def changed(
    options: argparse.Namespace, parser: argparse.ArgumentParser, names: Iterable[str]
) -> list[str]:
    """Return which of the options `names` do not have their default, as "--name"."""
    given = [name for name in names if getattr(options, name) != parser.get_default(name)]
    return [f"--{name.replace('_', '-')}" for name in given]


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add --device, where networks run."""
    meaning = "cpu, cuda, cuda:NUMBER or mps (the GPU of a Mac); default the best there is"
    add_option(parser, "--device NAME", meaning)


def add_palette(parser: argparse.ArgumentParser) -> None:
    """Add --palette, the colours of classes in pictures."""
    meaning = (
        "colours of the classes in pictures: of the dataset, or safe: told apart by colour-blind "
        "eyes"
    )
    add_option(parser, "--palette NAME", meaning, choices=("dataset", "safe"), default="dataset")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add --quiet, for commands that take long."""
    meaning = "print no progress and no details: only warnings, errors and one line, the result"
    add_option(parser, "--quiet", meaning)


def add_json(parser: argparse.ArgumentParser, document: str) -> None:
    """Add --json; `document`: what it prints, and where that is also written."""
    add_option(parser, "--json", f"print {document} on stdout, everything else on stderr")


def train_command(data: Path) -> list[str]:
    """Return the words of the command that trains on a folder of the layout `folder`."""
    settings = f"data.root={data}", f"output=runs/{data.resolve().name or 'mine'}"
    return ["sceneparse", "train", "--config", "own_data", *settings]


def training_parser(verb: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser for a training run: its configuration, and how to treat an earlier run."""
    parser = command_parser(verb, description, examples)
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings to change"
    )
    add_option(parser, "--config YAML", "YAML file, or name of a recipe", required=True)
    add_option(parser, "--print-config", "print every setting with its meaning and exit")
    start = parser.add_mutually_exclusive_group()
    resume = "resume the run in the run folder exactly; start it if there is none"
    add_option(start, "--resume", resume)
    add_option(start, "--overwrite", "delete the run in the run folder and start over")
    accept = "with --resume: accept settings that differ from the run's, and print them"
    add_option(parser, "--accept-changes", accept)
    add_licences(parser)
    add_quiet(parser)
    return parser


def add_licences(parser: argparse.ArgumentParser) -> None:
    """Add the option about the licences of pretrained weights."""
    meaning = "warn about pretrained weights without a permissive licence, or refuse them"
    add_option(parser, "--licences RULE", meaning, choices=("warn", "permissive"), default="warn")


def read_config(options: argparse.Namespace, kind: type[Settings]) -> Settings | None:
    """Load the configuration; with --print-config print it and return None. Raises InputError."""
    from sceneparse.config.loading import load_config, render_config
    from sceneparse.config.recipes import find_config

    config = load_config(find_config(options.config), options.overrides, kind)
    if not options.print_config:
        return config
    if options.quiet:
        raise InputError("--quiet has no effect with --print-config; omit it")
    print(render_config(config, explain=True), end="")
    return None


def run_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return how to start or resume a run, as arguments of `prepare_training`, `prepare_seed`."""
    names = ("resume", "overwrite", "accept_changes", "licences")
    return {name: getattr(options, name) for name in names}


PROTOCOL = ("amp", "dtype", "compile", "protocol", "crop", "base", "scales", "mirror", "weighting")


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that set the inference protocol and its precision."""
    group = parser.add_argument_group("protocol", "default: as in the model's validation")
    group.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="average the scores with those of the mirrored image",
    )
    add = partial(add_option, group)
    add("--protocol NAME", "whole, slide, spnet (as in the paper), mmseg_whole or mmseg_slide")
    add("--crop H W", "height and width of the windows", type=int)
    add("--base N", "scale the long (mmseg: short) side of images to N pixels", type=int)
    add("--scales S...", "average the scores of these scales", type=float)
    add("--weighting KIND", "weights within a window: uniform, or gaussian (most in the middle)")
    add("--amp TYPE", "mixed precision: auto, bf16, fp16 or off")
    add("--dtype TYPE", "faster, nearly equal: all in float32, bfloat16 or float16, norms folded")
    add("--compile", "compile the network: a slow start for each image size, then faster")


def protocol_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the protocol options; None means as in the model's validation."""
    crop = tuple(options.crop) if options.crop else None
    return {name: getattr(options, name) for name in PROTOCOL} | {"crop": crop}
