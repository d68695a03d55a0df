"""Train a segmentation model from a configuration, with validation and pictures."""

import argparse
from pathlib import Path

from sceneparse.cli.options import read_config, run_options, training_parser
from sceneparse.cli.output import print_summary
from sceneparse.runtime.signals import leave_at_signals

EXAMPLES = """\
  sceneparse train --config quickstart
  sceneparse train --config own_data data.root=/data/mine output=runs/mine
  sceneparse train --config camvid_mobilenet data.root=/data/camvid
  sceneparse train --config ade20k_spnet50 train.batch_size=8 optim.lr=5e-3
  sceneparse train --config quickstart --print-config
  sceneparse train --config quickstart --resume
  torchrun --nproc-per-node=4 -m sceneparse train --config cityscapes_spnet101

Every setting can be changed by section.key=value; --print-config lists them all.
The run folder (setting output, default runs/NAME_OF_CONFIG) gets config.yaml, metrics.jsonl,
tensorboard/, the checkpoints last and best, and pictures: augmented.png and labels.png at the
start, curves.png, worst.png and pictures/ with validations."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    return training_parser("train", "Train a segmentation model.", EXAMPLES)


def main(options: argparse.Namespace) -> None:
    """Read the configuration, build the parts of the run, and train."""
    leave_at_signals()
    from sceneparse.config.segmentation import SegConfig

    config = read_config(options, SegConfig)
    if config is None:
        return
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.runtime.neighbours import OtherWork
    from sceneparse.training.run import train
    from sceneparse.training.segmentation import prepare_training
    from sceneparse.training.summary import summary_of

    others = OtherWork()
    with join_processes(config.train.device) as process:
        training = prepare_training(config, process, **run_options(options))
        others.advise(process.device)
        train(training)
        if process.is_main:
            model = config.model
            network = f"{model.backbone} with head {model.head}"
            rows = summary_of(
                training, score="mean IoU", network=network, pretrained=model.pretrained
            )
            folder = Path(config.output)
            pictures = {"curves": folder / "curves.png", "worst images": folder / "worst.png"}
            drawn = {name: path for name, path in pictures.items() if path.is_file()}
            evaluate = ["sceneparse", "evaluate", config.output, "--report"]
            print_summary("train", {**rows, "run folder": folder, **drawn}, evaluate)
