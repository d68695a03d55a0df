"""Evaluate a trained model, or compare two: scores with intervals, beside their protocol."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser, writing
from sceneparse.cli.options import add_option, add_protocol_options, number, protocol_settings
from sceneparse.errors import InputError, first_few

if TYPE_CHECKING:
    from sceneparse.data.datasets import SegmentationDataset
    from sceneparse.evaluation.dataset import KeptExamples
    from sceneparse.evaluation.result import Evaluation

EXAMPLES = """\
  sceneparse evaluate runs/quickstart
  sceneparse evaluate runs/quickstart/last --split train --save overlay
  sceneparse evaluate runs/camvid_mobilenet --data /data/camvid --split test --report
  sceneparse evaluate runs/cityscapes_spnet101 --protocol spnet --crop 768 768
  sceneparse evaluate --compare runs/fcn runs/mpm
  torchrun --nproc-per-node=4 -m sceneparse evaluate runs/ade20k_spnet50

A run folder stands for its best checkpoint. Results go to RUN/eval_SPLIT (for another checkpoint
RUN/eval_SPLIT_NAME): eval.json, eval.csv, confusion.csv, images.csv, counts.npz and examples.png;
with --report also report.html and plots/, with --save a folder for each KIND (raw: the label
values of the dataset, as submission servers expect them).
--compare takes two runs that were evaluated (it reads their eval_SPLIT), or two folders of results,
and writes to OUTPUT (default runs/compare_...)."""
SAVED = ("index", "raw", "color", "overlay")
RULES = ("cityscapes", "truth_only", "absent_is_zero")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("evaluate", "Evaluate a trained model, or compare two.", EXAMPLES)
    result.add_argument(
        "checkpoint", nargs="?", metavar="RUN", help="run folder, checkpoint or exported file"
    )
    add = partial(add_option, result)
    add("--compare A B", "test whether B is better than A")
    add("--data FOLDER", "folder of the dataset; default as in training")
    add("--dataset NAME", "layout of the dataset; default as in training")
    add("--split SPLIT", "split, or list file in the folder; default the validation split")
    resamples = "bootstrap draws for 95% intervals; 0: none; default 1000, with --compare 10000"
    add("--bootstrap N", resamples, type=number(int, 0))
    add("--boundary", "also compute boundary IoU and boundary F1")
    add("--rule RULE", "classes that count in the mean", choices=RULES, default=RULES[0])
    add("--report", "also write report.html, and plots as PNG and SVG")
    add("--save KIND...", "also write a PNG per image", choices=SAVED, default=[])
    add("--output FOLDER", "folder for the results; default RUN/eval_SPLIT")
    add("--workers N", "processes that read images", type=number(int, 0), default=2)
    add_protocol_options(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Evaluate one model or compare two."""
    if (options.checkpoint is None) == (options.compare is None):
        raise InputError("give a run or checkpoint to evaluate, or two with --compare A B")
    (compare_two if options.compare else evaluate_one)(options)


def evaluate_one(options: argparse.Namespace) -> None:
    """Load the model and data, evaluate, print and write the scores."""
    from sceneparse.data.datasets import spread
    from sceneparse.evaluation.dataset import KeptExamples, evaluate_dataset
    from sceneparse.inference.networks import load_network, source_of
    from sceneparse.inference.predictor import Predictor
    from sceneparse.report.pictures import save_labels
    from sceneparse.runtime.distributed import join_processes

    model = load_network(options.checkpoint)
    for name, trained in (("dataset", "dataset"), ("data", "root"), ("split", "val_split")):
        if getattr(options, name) is None:
            setattr(options, name, model.meta["data"][trained])
    dataset = open_dataset(options, model.meta["classes"])
    output = output_of(options)
    kept = KeptExamples(dataset, spread(len(dataset), 5))
    with writing(output), join_processes() as process:
        output.mkdir(parents=True, exist_ok=True)
        # None: an exported network chooses, because it may not run on every device.
        device = str(process.device) if process.device.type in model.device_types else None
        predictor = Predictor(model, device=device, **protocol_settings(options))

        def save(image: Any, name: str, labels: Any) -> None:  # noqa: ANN401 - arrays
            for kind in options.save:
                save_labels(kind, output / kind / f"{name}.png", image, labels, predictor.table)

        evaluation = evaluate_dataset(
            predictor,
            dataset,
            process,
            rule=options.rule,
            resamples=1000 if options.bootstrap is None else options.bootstrap,
            with_boundary=options.boundary,
            with_calibration=options.report,
            workers=options.workers,
            facts={
                "checkpoint": str(source_of(options.checkpoint)),
                "data": f"{len(dataset)} images, split {options.split} of {options.data}",
                "precision": predictor.precision,
            },
            after_image=save,
            kept=kept,
        )
        if process.is_main:
            write_results(options, evaluation, kept, output)


def open_dataset(options: argparse.Namespace, classes: list[str]) -> SegmentationDataset:
    """Open the split to evaluate; raise InputError unless its classes are those of the model."""
    from sceneparse.data.datasets import classes_unless_named, create_dataset

    name, root = options.dataset, options.data
    dataset = create_dataset(name, root, options.split, classes_unless_named(name, root, classes))
    found = dataset.table.names
    if found != classes:
        raise InputError(
            f"the data has {len(found)} classes ({found[0]}, ...), "
            f"the model {len(classes)} ({classes[0]}, ...); they must be the same"
        )
    return dataset


def output_of(options: argparse.Namespace) -> Path:
    """Return the folder for results: in the run folder, unless another one is named."""
    checkpoint, name = Path(options.checkpoint), f"eval_{Path(options.split).stem}"
    if options.output:
        return Path(options.output)
    if checkpoint.is_file():  # an exported file
        return checkpoint.with_name(f"{name}_{checkpoint.name.replace('.', '_')}")
    if (checkpoint / "meta.json").is_file():  # a checkpoint in a run folder
        parent = checkpoint.parent
        run_folder = parent.parent if parent.name == "checkpoints" else parent
        return run_folder / f"{name}_{checkpoint.name}"
    return checkpoint / name


def write_results(
    options: argparse.Namespace, evaluation: Evaluation, kept: KeptExamples, output: Path
) -> None:
    """Print the tables and write the files beside them."""
    from sceneparse.evaluation.page import write_report
    from sceneparse.evaluation.result import text, write_evaluation
    from sceneparse.report.pictures import example_grid, save_png

    print(text(evaluation))
    write_evaluation(output, evaluation)
    examples = [kept.example(number) for number in kept.some]
    grid = example_grid(examples, evaluation.table.names, evaluation.table.colors)
    save_png(grid, output / "examples.png")
    print(f"\nscores       {output / 'eval.json'}, {output / 'eval.csv'}, {output / 'images.csv'}")
    print(f"pictures     {output / 'examples.png'}")
    for old in (output / "report.html", *(output / "plots").glob("*")):
        old.unlink(missing_ok=True)
    if options.report:
        write_report(output, f"{options.checkpoint}, {output.name}", evaluation, kept)
        print(f"report       {output / 'report.html'}, {output / 'plots'}")


def compare_two(options: argparse.Namespace) -> None:
    """Compare two finished evaluations of the same images."""
    from sceneparse.evaluation.compare import compare, find_scores, text, write_comparison
    from sceneparse.evaluation.result import read_evaluation

    allowed, defaults = {"compare", "split", "bootstrap", "output", "debug"}, parser()
    given = [n for n, value in vars(options).items() if value != defaults.get_default(n)]
    if useless := [f"--{name}" for name in given if name not in allowed]:
        raise InputError(
            f"--compare reads finished evaluations, so {first_few(useless)} would change nothing; "
            "use it when evaluating each run"
        )
    first, second = (find_scores(Path(run), options.split) for run in options.compare)
    resamples = 10_000 if options.bootstrap is None else options.bootstrap
    if resamples == 0:
        raise InputError("--compare needs resamples; use --bootstrap 1 or more")
    comparison = compare(read_evaluation(first), read_evaluation(second), resamples)
    print(text(comparison))
    name = f"compare_{first.parent.name}_{second.parent.name}_{second.name}"
    output = Path(options.output or Path("runs") / name)
    with writing(output):
        write_comparison(output, comparison)
    print(f"\nresults      {output}/compare.json, compare.csv, differences.png, differences.svg")
