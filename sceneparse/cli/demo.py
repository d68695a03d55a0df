"""Show what one or two models find in pictures, on a page for the browser on this machine."""

from __future__ import annotations

import argparse
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser
from sceneparse.cli.options import (
    add_device,
    add_option,
    add_palette,
    add_protocol_options,
    number,
    protocol_settings,
)
from sceneparse.errors import InputError, not_installed, one_line

if TYPE_CHECKING:
    from sceneparse.demo.local import Address
    from sceneparse.inference.predictor import Predictor

EXAMPLES = """\
  sceneparse demo runs/quickstart
  sceneparse demo runs/quickstart/model.onnx --samples photos "more/*.jpg"
  sceneparse demo runs/fcn runs/mpm --port 8000

Drop a picture on the page, or choose a sample: classes with their shares over the picture, with a
slider for their opacity and a switch for each; the confidence of each pixel; index PNG, overlay and
JSON to download; with two models both side by side, and where they differ.
It needs pip install "sceneparse[demo]", and no network. Only this machine can open the page, unless
--share or --host is given. Nothing is kept on disk when the command ends (Ctrl-C)."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("demo", "Show what models find in pictures, in a browser.", EXAMPLES)
    result.add_argument(
        "models",
        nargs="+",
        metavar="RUN",
        help="run folder, checkpoint or exported file; two to compare them",
    )
    add = partial(add_option, result)
    offered = (
        "images, folders or globs to choose from; default validation images of the first model, "
        "or drawn street scenes if they are not found"
    )
    add("--samples INPUT...", offered)
    add("--port N", "port of the page, 0: any free one", type=number(int, 0, 65535), default=7860)
    add("--host ADDRESS", "address to listen at, 0.0.0.0: the whole network", default="127.0.0.1")
    add("--share", "also make an address for everyone who knows it, through Gradio's servers")
    add_palette(result)
    add_device(result)
    add_protocol_options(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Find a port, load the models, and serve the page until Ctrl-C."""
    if len(options.models) > 2:
        raise InputError(f"give one model, or two to compare, got {len(options.models)}")
    if find_spec("gradio") is None:
        raise not_installed("gradio", "demo")
    from sceneparse.demo.local import free_address, temporary_files
    from sceneparse.demo.samples import given_samples, usual_samples
    from sceneparse.demo.session import Demo
    from sceneparse.inference.predictor import Predictor

    address = free_address(options.host, options.port)
    settings = protocol_settings(options)
    models = [(m, Predictor(m, device=options.device, **settings)) for m in options.models]
    for name, predictor in models:
        predictor.table = predictor.table.with_palette(options.palette)
        print_model(name, predictor)
    first = models[0][1].model
    if options.samples:
        samples = given_samples(options.samples, first.bit_depth)
    else:
        samples = usual_samples(first)
    print(one_line(f"samples      {samples.description}"))
    with temporary_files():
        from sceneparse.demo.server import served, wait_for_end

        with served(Demo(models, samples), address, share=options.share) as public:
            print_address(address, public)
            wait_for_end()
    kept = "nothing was kept on disk"
    if options.share:
        kept += ", except the certificate in .gradio and the program by which Gradio shares pages"
    print(f"stopped      {kept}")


def print_model(name: str, predictor: Predictor) -> None:
    """Print what a model is, and what computes it."""
    from sceneparse.runtime.versions import describe_device

    device = str(predictor.compute.device)
    if predictor.compute.device.type != "cpu":
        device += f" ({describe_device(predictor.compute.device)})"
    print(one_line(f"model        {name}, {predictor.table.num_classes} classes"))
    print(f"device       {device}, {predictor.precision}")
    print(f"protocol     {predictor.protocol.description}")


def print_address(address: Address, public: str | None) -> None:
    """Print where the page is, and a warning if others can open it too."""
    if not address.is_local:
        print(
            f"warning      everyone who can connect to {address.host}, port {address.port}, "
            "can use the page; it has no password"
        )
    if public is not None:
        print(f"warning      everyone who knows {public} can use the page; it has no password")
    print(f"page         {address.url} (Ctrl-C ends it)", flush=True)
