"""Plan and train the best parser that a time allows, from a folder of images and masks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from sceneparse.cli.command import OTHER_OUTPUT, command_parser, writing
from sceneparse.cli.options import add_licences, add_option, add_palette, add_quiet, number
from sceneparse.cli.output import print_result, print_summary
from sceneparse.errors import InputError
from sceneparse.runtime.shell import command_line

EXAMPLES = """\
  sceneparse auto photos --time 20m
  sceneparse auto annotations/instances.json --time 2h --output runs/parts
  sceneparse auto /data/camvid --time 10m --weights mobilenetv2_100.safetensors
  sceneparse auto photos --time 20m --plan-only
  sceneparse auto photos --time 20m train.batch_size=8 augment.flip=0
  sceneparse auto runs/auto_photos --time +20m

DATA: images and masks in any form that `sceneparse convert` reads, a folder in the layout of
`sceneparse train`, CamVid, Cityscapes, ADE20K or Pascal Context. Without splits, one is made.
The folder OUTPUT gets report.html, plan.yaml (a configuration with a reason behind every line),
auto.json, first/ (a light head on a frozen backbone) and run/ (the fine-tuned model).
DATA may also be the OUTPUT of an earlier call: training then starts from its better model."""
# Settings that the command sets, and the option that does; None: it cannot be changed.
_OWN = {
    "output": "--output",
    "seed": "--seed",
    "data.root": "DATA",
    "data.dataset": None,
    "data.train_split": None,
    "data.val_split": "--val",
    "data.classes": "--classes",
    "model.pretrained": "--weights",
    "train.minutes": "--time",
}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    about = "Train the best parser that a time allows, and explain every choice."
    result = command_parser("auto", about, EXAMPLES)
    result.add_argument("data", metavar="DATA", type=Path, help="images and masks; see below")
    result.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings of the plan to fix"
    )
    add = partial(add_option, result)
    add("--time TIME", "wall-clock time for everything, e.g. 5m, 20m or 2h", required=True)
    add("--output FOLDER", "folder to write; default runs/auto_NAME_OF_DATA")
    add("--val FOLDER", "images and masks to validate on; DATA is then for training", type=Path)
    add("--classes FILE", "names of the classes, as for `sceneparse convert`", type=Path)
    weights = "imagenet, none, a file of timm's weights, or a run"
    add("--weights WEIGHTS", weights, default="imagenet")
    add("--seed N", "random seed of split, weights and training; default 0", type=number(int, 0))
    add("--plan-only", "measure, write and print the plan, and stop")
    add("--resume", "resume the interrupted job in OUTPUT")
    add_licences(result)
    add_palette(result)
    add_quiet(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Read the options, do all steps, and print where the results are."""
    from sceneparse.runtime.signals import leave_at_signals

    leave_at_signals()
    import psutil

    from sceneparse.auto.budget import Budget, read_time
    from sceneparse.auto.record import PLAN_FILE
    from sceneparse.auto.steps import run_auto
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.runtime.progress import log_to_stderr
    from sceneparse.runtime.series import in_front

    budget = Budget(read_time(options.time), started=psutil.Process().create_time())
    request = request_of(options)
    with ExitStack() as stack:
        device = request.given.get("train.device")
        named = None if device is None else str(device)
        process = stack.enter_context(join_processes(named))
        stack.enter_context(writing(request.output, OTHER_OUTPUT))
        if process.world_size > 1:
            raise InputError("sceneparse auto runs in one process; train plan.yaml with torchrun")
        if options.plan_only:  # stdout gets the plan alone
            stack.enter_context(log_to_stderr())
        stack.enter_context(in_front(budget.describe))
        job = run_auto(request, budget, process, resume=options.resume)
    if options.plan_only:
        print_result((request.output / PLAN_FILE).read_text(encoding="utf-8"))
        return
    summarise(request.output, job.record)


def request_of(options: argparse.Namespace) -> Any:  # noqa: ANN401 - a Request, imported late
    """Return what the options ask for; raises InputError for settings that auto sets itself."""
    from sceneparse.auto.job import Request
    from sceneparse.auto.record import RECORD_FILE
    from sceneparse.config.loading import read_overrides

    if options.plan_only and options.palette != "dataset":
        raise InputError("--palette is for the page, which --plan-only does not write; omit it")
    given = read_overrides(options.overrides)
    for key in given:
        if key in _OWN:
            instead = f"use {_OWN[key]}" if _OWN[key] else "it follows from DATA"
            raise InputError(f"{key} is set by sceneparse auto itself; {instead}")
    source = options.data
    again = (source / RECORD_FILE).is_file()
    usual = f"{source}_more" if again else f"runs/auto_{source.resolve().stem or 'data'}"
    return Request(
        source=source,
        output=Path(options.output or usual),
        command=command_line(["sceneparse", *sys.argv[1:]]),
        weights=options.weights,
        licences=options.licences,
        val=options.val,
        classes=options.classes,
        seed=options.seed or 0,
        given=given,
        plan_only=options.plan_only,
        palette=options.palette,
    )


def summarise(output: Path, record: Mapping[str, Any]) -> None:
    """Print the score, the time, the best model, and the next commands."""
    from sceneparse.auto.record import PAGE_FILE, PLAN_FILE, model_of
    from sceneparse.runtime.progress import format_seconds

    model = model_of(output, record)
    used, allowed = record["seconds_used"], 60 * record["minutes"]
    rows = {
        "mean IoU": f"{record['mean_iou']:.4f} ({record['reason']})",
        "time": f"{format_seconds(used)} of {format_seconds(allowed)} used",
        "report": output / PAGE_FILE,
        "model": model,
        "plan": output / PLAN_FILE,
        "go further": command_line(["sceneparse", "auto", str(output), "--time", "+20m"]),
    }
    print_summary("auto", rows, ["sceneparse", "predict", str(model), "PHOTOS"])
