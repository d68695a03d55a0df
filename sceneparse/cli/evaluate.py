"""Evaluate a trained model, or compare two: scores with intervals, beside their protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser
from sceneparse.cli.options import add_protocol_options, protocol_settings

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
  torchrun --nproc_per_node=4 -m sceneparse evaluate runs/ade20k_spnet50

A run folder stands for its best checkpoint. Scores go to RUN/eval_SPLIT (eval_SPLIT_last and so on
for another checkpoint): eval.json, eval.csv, confusion.csv, images.csv, counts.npz, examples.png,
with --report report.html and plots/, with --save the folders index, raw, color, overlay.
--compare takes runs (their eval_SPLIT) or folders of scores, and writes to --output."""
SAVED = ("index", "raw", "color", "overlay")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser(
        "evaluate", "Evaluate a trained segmentation model, or compare two.", EXAMPLES
    )
    result.add_argument(
        "checkpoint", nargs="?", metavar="RUN", help="run, checkpoint or exported file"
    )
    result.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="is B better than A? paired, over images"
    )
    result.add_argument("--data", metavar="FOLDER", help="data folder; default: as trained")
    result.add_argument("--dataset", metavar="NAME", help="layout of the data; default: as trained")
    result.add_argument(
        "--split", help="split, or list file under the data folder; default: as trained"
    )
    result.add_argument(
        "--bootstrap",
        type=int,
        metavar="N",
        help="resamples for 95%% intervals over images (1000; 10000 to compare); 0: none",
    )
    result.add_argument("--boundary", action="store_true", help="also boundary IoU and F1")
    result.add_argument(
        "--rule",
        help="classes in the mean: cityscapes, truth_only or absent_is_zero (cityscapes)",
    )
    result.add_argument(
        "--report", action="store_true", help="write report.html, and plots as PNG and SVG"
    )
    result.add_argument(
        "--save",
        nargs="+",
        default=[],
        choices=SAVED,
        help="PNGs per image; raw: the data set's own label values, for its submission server",
    )
    result.add_argument(
        "--output", metavar="FOLDER", help="where results go; default RUN/eval_SPLIT"
    )
    result.add_argument("--workers", type=int, default=2, help="processes that read images")
    add_protocol_options(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Evaluate one model or compare two."""
    # Imported late so that --help answers at once.
    from sceneparse.errors import InputError, unknown_name
    from sceneparse.metrics.confusion import ABSENT_CLASS_RULES

    if (options.checkpoint is None) == (options.compare is None):
        raise InputError("give a run or checkpoint to evaluate, or two with --compare A B")
    if options.workers < 0:
        raise InputError(f"--workers must be 0 or more, got {options.workers}")
    if options.bootstrap is not None and options.bootstrap < 0:
        raise InputError(f"--bootstrap must be 0 or more, got {options.bootstrap}")
    if options.rule not in {None, *ABSENT_CLASS_RULES}:
        raise unknown_name("rule", options.rule, ABSENT_CLASS_RULES)
    work = compare_two if options.compare else evaluate_one
    try:
        work(options)
    except OSError as error:
        raise InputError(f"cannot write results: {error}") from error


def evaluate_one(options: argparse.Namespace) -> None:
    """Load the model and data, evaluate, print and write the scores."""
    from sceneparse.data.datasets import spread
    from sceneparse.evaluation.dataset import KeptExamples, evaluate_dataset
    from sceneparse.inference.networks import load_network, source_of
    from sceneparse.inference.predictor import Predictor
    from sceneparse.report.pictures import save_labels
    from sceneparse.runtime.distributed import join_processes

    model = load_network(options.checkpoint)
    dataset = open_dataset(options, model.meta)
    split = options.split or model.meta["data"]["val_split"]
    root = options.data or model.meta["data"]["root"]
    output = prepare_output(options, split)
    kept = KeptExamples(dataset, spread(len(dataset), 5))
    with join_processes() as process:
        predictor = Predictor(
            model,
            # None: where an exported network runs at all
            device=str(process.device) if process.device.type in model.device_types else None,
            **protocol_settings(options),
        )

        def save(image: Any, name: str, labels: Any) -> None:  # noqa: ANN401 - numpy is late
            for kind in options.save:
                save_labels(kind, output / kind / f"{name}.png", image, labels, predictor.table)

        evaluation = evaluate_dataset(
            predictor,
            dataset,
            process,
            rule=options.rule or "cityscapes",
            resamples=1000 if options.bootstrap is None else options.bootstrap,
            with_boundary=options.boundary,
            with_calibration=options.report,
            workers=options.workers,
            facts={
                "checkpoint": str(source_of(options.checkpoint)),
                "data": f"{len(dataset)} images, split {split} of {root}",
                "precision": predictor.precision,
            },
            after_image=save,
            kept=kept,
        )
        if process.is_main:
            write_results(options, evaluation, kept, output)


def open_dataset(options: argparse.Namespace, meta: dict[str, Any]) -> SegmentationDataset:
    """Open the split to evaluate; its classes must be those of the model."""
    from sceneparse.data.datasets import classes_unless_named, create_dataset
    from sceneparse.errors import InputError

    trained = meta["data"]
    name = options.dataset or trained["dataset"]
    root = options.data or trained["root"]
    split = options.split or trained["val_split"]
    dataset = create_dataset(name, root, split, classes_unless_named(name, root, meta["classes"]))
    if dataset.table.names != meta["classes"]:
        raise InputError(
            f"the data has {dataset.table.num_classes} classes ({dataset.table.names[0]}, ...), "
            f"the model {len(meta['classes'])} ({meta['classes'][0]}, ...); they must be the same"
        )
    return dataset


def prepare_output(options: argparse.Namespace, split: str) -> Path:
    """Make the folder for results: in the run folder, unless another one is asked for."""
    from sceneparse.errors import InputError

    checkpoint, name = Path(options.checkpoint), f"eval_{Path(split).stem}"
    output = checkpoint / name
    if checkpoint.is_file():  # an exported file
        output = checkpoint.with_name(f"{name}_{checkpoint.name.replace('.', '_')}")
    if (checkpoint / "meta.json").is_file():  # a checkpoint was named itself
        run_folder = checkpoint.parent
        run_folder = run_folder.parent if run_folder.name == "checkpoints" else run_folder
        output = run_folder / f"{name}_{checkpoint.name}"
    output = Path(options.output) if options.output else output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write results to '{output}': {error.strerror}") from error
    return output


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
    """Compare two finished evaluations on the same images."""
    from sceneparse.evaluation.compare import compare, find_scores, text, write_comparison
    from sceneparse.evaluation.result import read_evaluation

    refuse_other_options(options)
    first, second = (find_scores(Path(word), options.split) for word in options.compare)
    resamples = options.bootstrap or 10_000
    comparison = compare(read_evaluation(first), read_evaluation(second), resamples)
    print(text(comparison))
    name = f"compare_{first.parent.name}_{second.parent.name}_{second.name}"
    output = Path(options.output or Path("runs") / name)
    write_comparison(output, comparison)
    print(
        f"\nresults      {output / 'compare.json'}, compare.csv, differences.png, differences.svg"
    )


def refuse_other_options(options: argparse.Namespace) -> None:
    """Raise InputError for options that mean nothing to a comparison of finished evaluations."""
    from sceneparse.errors import InputError, first_few

    known = {"compare", "split", "bootstrap", "output", "debug", "workers"}
    given = [
        f"--{name}"
        for name, value in vars(options).items()
        if name not in known and value not in (None, False, [])
    ]
    if given:
        raise InputError(
            f"--compare reads finished evaluations; {first_few(given)} would change nothing: give "
            "it when evaluating each run"
        )
