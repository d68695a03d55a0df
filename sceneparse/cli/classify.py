"""Train image classifiers with attention blocks: a run per seed, then their mean and spread."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.options import read_config, run_options, training_parser
from sceneparse.cli.output import lines_of, print_summary
from sceneparse.errors import InputError, Preempted
from sceneparse.runtime.signals import leave_at_signals

if TYPE_CHECKING:
    from sceneparse.config.classification import ClsConfig

EXAMPLES = """\
  sceneparse classify --config cifar10_resnet18
  sceneparse classify --config cifar10_resnet18 attention=strip_pooling seeds=0-4
  sceneparse classify --config cifar100_resnet18 model=timm:resnet18
  sceneparse classify --config cifar10_resnet18 seeds=0-4 --resume

Every setting can be changed by section.key=value; --print-config lists them all.
Each seed has a run folder OUTPUT/seed-N (output: runs/NAME_OF_CONFIG unless set); OUTPUT gets
summary.json and curves.png. --resume skips finished seeds, resumes those that have a
checkpoint, and starts the others."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    return training_parser("classify", "Train image classifiers, one per seed.", EXAMPLES)


def main(options: argparse.Namespace) -> None:
    """Read the configuration and the data, train each seed, write the summary."""
    leave_at_signals()
    from sceneparse.config.classification import ClsConfig

    config = read_config(options, ClsConfig)
    if config is not None:
        train_seeds(config, run_options(options))
        summarise(config)


def train_seeds(config: ClsConfig, earlier: dict[str, Any]) -> None:
    """Train every seed that is not finished; `earlier`: how to treat earlier runs."""
    from sceneparse.runs.folder import validate_folder
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.runtime.neighbours import OtherWork
    from sceneparse.runtime.series import Series, in_front
    from sceneparse.training.classification import load_data, prepare_seed, seed_folder
    from sceneparse.training.run import train
    from sceneparse.training.summary import summary_of

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("`sceneparse classify` runs in one process; start it without torchrun")
    for seed in config.seeds:
        validate_folder(
            seed_folder(config, seed), resume=earlier["resume"], overwrite=earlier["overwrite"]
        )
    milestones = config.optim.milestones if config.optim.schedule == "step" else []
    if late := [epoch for epoch in milestones if epoch >= config.train.epochs]:
        print(f"optim.milestones {late} are not reached in train.epochs {config.train.epochs}")
    others = OtherWork()
    with join_processes(config.train.device) as process:
        data = load_data(config)
        others.advise(process.device)
        series = Series("run", len(config.seeds))
        for number, seed in enumerate(config.seeds, start=1):
            series.begin(number, len(config.seeds) - number + 1)
            training = prepare_seed(config, seed, data, process, **earlier)
            print(
                f"seed {seed}: {config.model}, attention {config.attention}, "
                f"{training.epochs} epochs on {process.device.type} in {training.compute.name}"
                + (", finished already" if training.finished else "")
            )
            with in_front(series.describe):
                train(training)
            score = "held-out accuracy" if config.data.holdout else "test accuracy"
            rows = summary_of(
                training, score=score, network=config.model, pretrained=config.pretrained
            )
            print("\n".join(lines_of(rows)))
            if training.stop.name is not None and seed != config.seeds[-1]:
                raise Preempted(
                    f"{training.stop.name} received, seed {seed} is finished; resume with the same "
                    "command and --resume"
                )


def summarise(config: ClsConfig) -> None:
    """Print and write the mean and spread over the seeds, and draw the curves."""
    from sceneparse.studies.seeds import read_seed, seeds_table, summary_of, write_summary

    output = Path(config.output)
    curves = [read_seed(output / f"seed-{seed}") for seed in config.seeds]
    print("\n" + seeds_table(curves))
    write_summary(output, curves)
    name, spread = next(iter(summary_of(curves).items()))
    count = "one seed" if len(curves) == 1 else f"mean of {len(curves)} seeds"
    rows = {
        "tested": f"{name} {spread.mean:.4f}, {count}",
        "runs": output,
        "summary": output / "summary.json",
        "curves": output / "curves.png",
    }
    print_summary("classify", rows, ["sceneparse", "compare", config.output, "OTHER"])
