"""Show what one or two models find in pictures, on a page for the browser on this machine."""

from __future__ import annotations

import argparse
from functools import partial
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
from sceneparse.errors import InputError, one_line

if TYPE_CHECKING:
    from sceneparse.demo.server import DemoServer
    from sceneparse.inference.predictor import Predictor

EXAMPLES = """\
  sceneparse demo runs/quickstart
  sceneparse demo runs/quickstart/model.onnx --samples photos "more/*.jpg"
  sceneparse demo runs/fcn runs/mpm --port 8000

Drop a picture on the page, or choose a sample: classes with their shares over the picture, with a
slider for their opacity and a switch for each; the confidence of each pixel; index PNG, overlay and
JSON to download; with two models both side by side, and where they differ.
Only this machine can open the page. It needs no network and no other package. Pictures stay in
memory and are gone when the command ends (Ctrl-C)."""


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
    add_palette(result)
    add_device(result)
    add_protocol_options(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Take the port, load the models, and serve the page until Ctrl-C."""
    if len(options.models) > 2:
        raise InputError(f"give one model, or two to compare, got {len(options.models)}")
    from sceneparse.demo.samples import given_samples, usual_samples
    from sceneparse.demo.server import DemoServer
    from sceneparse.demo.session import Demo
    from sceneparse.inference.predictor import Predictor

    with DemoServer(options.host, options.port) as server:
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
        print_address(server)
        server.serve(Demo(models, samples))
    print("stopped      nothing was kept on disk")


def print_model(name: str, predictor: Predictor) -> None:
    """Print what a model is, and what computes it."""
    from sceneparse.runtime.versions import describe_device

    device = str(predictor.compute.device)
    if predictor.compute.device.type != "cpu":
        device += f" ({describe_device(predictor.compute.device)})"
    print(one_line(f"model        {name}, {predictor.table.num_classes} classes"))
    print(f"device       {device}, {predictor.precision}")
    print(f"protocol     {predictor.protocol.description}")


def print_address(server: DemoServer) -> None:
    """Print where the page is, and a warning if others can open it too."""
    if not server.is_local:
        print(
            f"warning      everyone who can connect to {server.server_name}, port "
            f"{server.server_port}, can use the page; it has no password"
        )
    print(f"page         {server.url} (Ctrl-C ends it)", flush=True)
