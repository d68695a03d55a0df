"""Options that several commands share: a training run, the way images become scores."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sceneparse.config.types import Section

Settings = TypeVar("Settings", bound="Section")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training run: its configuration, and how to treat an earlier run."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="YAML",
        help="configuration: a YAML file, or the name of a recipe",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="changed settings"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print every setting with its meaning, and stop"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        action="store_true",
        help="continue exactly where the run in the folder ended; start it if there is none",
    )
    start.add_argument(
        "--overwrite", action="store_true", help="delete the run in the folder and start over"
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="with --resume: accept settings that differ from the run's; they are printed",
    )


def read_config(options: argparse.Namespace, kind: type[Settings]) -> Settings | None:
    """Load the configuration; with --print-config print it and return None. Raises InputError."""
    from sceneparse.config.loading import load_config, render_config
    from sceneparse.config.recipes import find_config

    config = load_config(find_config(options.config), options.overrides, kind)
    if not options.print_config:
        return config
    print(render_config(config, explain=True), end="")
    return None


def run_options(options: argparse.Namespace) -> dict[str, bool]:
    """Return how to treat an earlier run, as arguments of `prepare_training`, `prepare_seed`."""
    return {name: getattr(options, name) for name in ("resume", "overwrite", "accept_changes")}


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how images become scores; all default to what training used."""
    group = parser.add_argument_group("protocol", "default: as the model was validated")
    group.add_argument(
        "--protocol",
        help="whole, slide, spnet (the paper's test code), mmseg_whole or mmseg_slide",
    )
    group.add_argument("--crop", nargs=2, type=int, metavar=("H", "W"), help="size of windows")
    group.add_argument(
        "--base", type=int, metavar="N", help="scale images to this long (mmseg: short) side"
    )
    group.add_argument(
        "--scales", nargs="+", type=float, metavar="S", help="scales whose scores are averaged"
    )
    group.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="average with the mirror image",
    )
    group.add_argument(
        "--weighting", help="of windows: uniform, or gaussian (trusts their middle more)"
    )
    group.add_argument("--amp", help="precision: auto, bf16, fp16 or off")
    group.add_argument(
        "--dtype", help="faster, nearly the same: norms folded, all in float32, bfloat16 or float16"
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="faster after a first image of each size; see --dtype",
    )


def protocol_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Collect the options of add_protocol_options; None stands for as trained."""
    return {
        "amp": options.amp,
        "dtype": options.dtype,
        "compile": options.compile,
        "protocol": options.protocol,
        "crop": tuple(options.crop) if options.crop else None,
        "base": options.base,
        "scales": options.scales,
        "mirror": options.mirror,
        "weighting": options.weighting,
    }
