"""Evaluate a trained model, or compare two: scores with intervals, beside their protocol."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import OTHER_OUTPUT, command_parser, create_output, writing
from sceneparse.cli.evaluated_data import (
    open_dataset,
    predict_instead,
    set_usual_data,
    settings_of,
    usual_settings,
)
from sceneparse.cli.options import (
    add_device,
    add_json,
    add_option,
    add_palette,
    add_protocol_options,
    add_quiet,
    changed,
    number,
    protocol_settings,
)
from sceneparse.cli.output import print_document, print_summary
from sceneparse.data.file_names import describe_encoded, require_own_files, storable
from sceneparse.errors import InputError, first_few

if TYPE_CHECKING:
    import torch

    from sceneparse.data.datasets import SegmentationDataset
    from sceneparse.evaluation.result import Evaluation
    from sceneparse.models.segmentation import SegmentationNetwork
    from sceneparse.training.examples import KeptExamples

EXAMPLES = """\
  sceneparse evaluate runs/quickstart
  sceneparse evaluate runs/quickstart/last --split train --save overlay
  sceneparse evaluate runs/camvid_mobilenet --data /data/camvid --split test --report
  sceneparse evaluate runs/cityscapes_spnet101 --protocol spnet --crop 768 768
  sceneparse evaluate runs/quickstart --exclude "lane mark" sky
  sceneparse evaluate --compare runs/fcn runs/mpm
  sceneparse evaluate --compare runs/fcn/eval_val_slide runs/mpm/eval_val_slide
  torchrun --nproc-per-node=4 -m sceneparse evaluate runs/ade20k_spnet50
  sceneparse evaluate runs/cifar10_resnet18/seed-0 --data data
  sceneparse evaluate other.onnx --data photos --split val --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

A run folder stands for its best checkpoint. Results go to RUN/eval_SPLIT: eval.json, eval.csv,
confusion.csv, images.csv, counts.npz and examples.png; with --report also report.html and plots/,
with --save a folder for each KIND (raw: the label values of the dataset, as submission servers
expect them). Another checkpoint, dataset, protocol or list of excluded classes has a folder of its
own, e.g. RUN/eval_val_last, RUN/eval_val_camvid, RUN/eval_val_slide; the same settings overwrite
their folder.
Of an image classifier, accuracy and loss are printed.
--compare takes two runs that were evaluated (of several evaluations the one that both have), or two
folders of results, and writes to OUTPUT (default runs/compare_...)."""
logger = logging.getLogger(__name__)
SAVED = ("index", "raw", "color", "overlay")
RULES = ("cityscapes", "truth_only", "absent_is_zero", "absent_is_one")


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
    resamples = (
        "95% intervals by a bootstrap of N draws instead of the jackknife, 0: none; "
        "with --compare: permutations of the test, default 10000"
    )
    add("--bootstrap N", resamples, type=number(int, 0))
    add("--boundary", "also compute boundary IoU and boundary F1")
    add("--rule RULE", "classes that count in the mean", choices=RULES, default=RULES[0])
    without = "leave classes out of the means; their pixels still count as wrong for other classes"
    add("--exclude CLASS...", without, default=[])
    add("--report", "also write report.html, and plots as PNG and SVG")
    add("--save KIND...", "also write a PNG per image", choices=SAVED, default=[])
    add_palette(result)
    add("--output FOLDER", "folder for the results; default RUN/eval_SPLIT..., see below")
    add("--workers N", "processes that read images", type=number(int, 0), default=2)
    add_device(result)
    add_quiet(result)
    add_json(result, "the scores as JSON (what eval.json holds; with --compare, compare.json)")
    foreign = partial(add_option, result.add_argument_group("ONNX files of other programs"))
    foreign("--mean R G B", "mean that images are normalised with, of values in 0..1", type=float)
    foreign("--std R G B", "deviation that images are normalised with", type=float)
    foreign("--input-size H W", "the only size it takes; images are scaled", type=number(int, 1))
    add_protocol_options(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Evaluate one model or compare two."""
    if (options.checkpoint is None) == (options.compare is None):
        raise InputError("give a run or checkpoint to evaluate, or two with --compare A B")
    from sceneparse.models.stored import is_classifier

    if options.compare:
        compare_two(options)
    elif is_classifier(options.checkpoint):
        evaluate_images(options)
    else:
        evaluate_one(options)


def given_besides(options: argparse.Namespace, used: set[str]) -> list[str]:
    """Return the options that were given and are not `used`, as "--name"."""
    used = used | {"debug", "quiet", "json"}
    return changed(options, parser(), [name for name in vars(options) if name not in used])


def evaluate_images(options: argparse.Namespace) -> None:
    """Print the accuracy of an image classifier; raise InputError for options of segmentation."""
    import torch

    from sceneparse.data.device_loader import evaluation_batches
    from sceneparse.data.image_folders import load_classes
    from sceneparse.inference.normalization import Normalization
    from sceneparse.runs.checkpoint import load_model
    from sceneparse.runtime.devices import choose_device
    from sceneparse.runtime.precision import Compute
    from sceneparse.runtime.progress import Progress
    from sceneparse.training.loop import evaluate_classifier

    if useless := given_besides(options, {"checkpoint", "data", "dataset", "split", "device"}):
        raise InputError(f"{useless[0]} has no effect on a classifier; omit it")
    model = load_model(options.checkpoint)
    trained = {"root": "data", **model.meta.get("data", {})}
    trained |= model.meta.get("config", {}).get("data", {})
    name = options.dataset or trained.get("dataset", "folder")
    root = options.data or trained["root"]
    split = options.split or trained.get("test_split", "test")
    images = load_classes(name, root, split, trained.get("size", 32))
    count, names = model.meta["model"]["num_classes"], model.meta.get("classes", [])
    if len(images.classes) != count or (names and names != images.classes):
        raise InputError(
            f"the data has {len(images.classes)} classes ({first_few(images.classes, 2)}), the "
            f"model {count} ({first_few(names, 2) or 'of unknown names'}); they must be the same"
        )
    device = choose_device(options.device)
    model.to(device)
    batches = evaluation_batches(images, 500, device)
    with torch.inference_mode(), Progress("evaluate", len(batches), "batches") as progress:
        loss, accuracy = evaluate_classifier(
            model,
            progress.over(batches),
            normalize=Normalization(model.mean, model.std),
            compute=Compute(device),
        )
    values = {"accuracy": accuracy, "loss": loss, "images": len(images)}
    print_document({**values, "split": split, "data": str(root)})
    data = f"{len(images)} images, split {split} of {root}"
    print_summary("evaluate", {"accuracy": f"{accuracy:.4f}", "loss": f"{loss:.4f}", "data": data})


def evaluate_one(options: argparse.Namespace) -> None:
    """Load the model and data, evaluate, print and write the scores."""
    from sceneparse.data.datasets import spread
    from sceneparse.data.sample_checks import require_labels
    from sceneparse.evaluation.dataset import evaluate_dataset
    from sceneparse.evaluation.folders import default_folder
    from sceneparse.evaluation.result import excluded_classes
    from sceneparse.inference.networks import load_network, source_of
    from sceneparse.inference.predictor import Predictor
    from sceneparse.report.pictures import save_labels
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.training.examples import KeptExamples

    model = foreign_network(options) or load_network(options.checkpoint)
    usual = usual_settings(model)
    set_usual_data(options, usual)
    dataset = open_dataset(options, model)
    excluded = excluded_classes(options.exclude, model.classes)
    settings, variant = settings_of(options, model, usual)
    output = Path(
        options.output or default_folder(Path(options.checkpoint), usual, settings, variant)
    )
    require_labels(dataset, predict_instead(options.checkpoint, dataset))
    check_saved(options.save, dataset, output)
    # The report alone shows the worst and best images.
    limits: dict[str, int] = {} if options.report else {"worst": 0, "best": 0}
    kept = KeptExamples(dataset, spread(len(dataset), 5), **limits)
    join = join_processes(options.device, model.device_types)
    with writing(output, OTHER_OUTPUT), join as process:
        create_output(output)
        predictor = Predictor(model, device=str(process.device), **protocol_settings(options))
        for drawn in (predictor, dataset):
            drawn.table = drawn.table.with_palette(options.palette)

        def save(image: Any, name: str, labels: Any) -> None:  # noqa: ANN401 - arrays
            for kind in options.save:
                path = output / storable(f"{kind}/{name}.png")
                save_labels(kind, path, image, labels, predictor.table)

        evaluation = evaluate_dataset(
            predictor,
            dataset,
            process,
            rule=options.rule,
            resamples=options.bootstrap,
            with_boundary=options.boundary,
            for_report=options.report,
            workers=options.workers,
            facts={
                "checkpoint": str(source_of(options.checkpoint)),
                "data": f"{len(dataset)} images, split {options.split} of {options.data}",
                "precision": predictor.precision,
            },
            excluded=excluded,
            settings=settings,
            after_image=save,
            kept=kept,
        )
        if process.is_main:
            write_results(options, model, evaluation, kept, output, process.device)


def check_saved(kinds: Sequence[str], dataset: SegmentationDataset, output: Path) -> None:
    """Raise InputError if two pictures of --save would be one file; log encoded names."""
    files = [(f"{kind}/{pair.name}.png", pair.image) for kind in kinds for pair in dataset.pairs]
    require_own_files(files, output)
    if kinds and (note := describe_encoded(f"{pair.name}.png" for pair in dataset.pairs)):
        logger.info(note)


def foreign_network(options: argparse.Namespace) -> SegmentationNetwork | None:
    """Return the network in an ONNX file of another program; None if no option says it is one."""
    from sceneparse.data.datasets import create_dataset
    from sceneparse.inference.any_network import (
        IMAGENET_MEAN,
        IMAGENET_STD,
        AnyNetwork,
        onnx_function,
    )

    given = changed(options, parser(), ("mean", "std", "input_size"))
    if not given:
        return None
    if Path(options.checkpoint).suffix != ".onnx":
        raise InputError(f"{given[0]} is for ONNX files of other programs; omit it")
    if not (options.data and options.split):
        raise InputError("the file of another program names no data; give --data and --split")
    options.dataset = options.dataset or "folder"
    table = create_dataset(options.dataset, options.data, options.split).table
    return AnyNetwork(
        onnx_function(Path(options.checkpoint)),
        table.names,
        colors=table.colors,
        mean=options.mean or IMAGENET_MEAN,
        std=options.std or IMAGENET_STD,
        size=options.input_size and tuple(options.input_size),
    )


def write_results(
    options: argparse.Namespace,
    model: SegmentationNetwork,
    evaluation: Evaluation,
    kept: KeptExamples,
    output: Path,
    device: torch.device,
) -> None:
    """Print the tables and write the files beside them; `device`: that the model ran on."""
    from sceneparse.evaluation.page import describe_model, write_report
    from sceneparse.evaluation.result import text, write_evaluation
    from sceneparse.report.pictures import example_grid, save_png

    print(text(evaluation))
    write_evaluation(output, evaluation)
    examples = [kept.example(number) for number in kept.some]
    grid = example_grid(examples, evaluation.table.names, evaluation.table.colors)
    save_png(grid, output / "examples.png")
    for old in (output / "report.html", *(output / "plots").glob("*")):
        old.unlink(missing_ok=True)
    if options.report:
        about = describe_model(model, Path(options.checkpoint))
        title = f"{options.checkpoint}, {output.name}"
        write_report(output, title, evaluation, kept, about, device)
    print_document(output / "eval.json")
    rows = score_rows(evaluation, output, report=options.report)
    is_foreign = any((options.mean, options.std, options.input_size))
    predict = [] if is_foreign else ["sceneparse", "predict", options.checkpoint, "PHOTOS"]
    print_summary("evaluate", {**rows, "pictures": output / "examples.png"}, predict)


def score_rows(evaluation: Evaluation, output: Path, *, report: bool) -> dict[str, object]:
    """Return the summary of an evaluation: the mean IoU, and the files to look at."""
    from sceneparse.report.tables import four_digits

    known = f" (95% interval {words})" if (words := evaluation.interval_words) else ""
    count = len(evaluation.image_names)
    images = f"{count} image{'s' * (count != 1)}"
    return {
        "mean IoU": f"{four_digits(evaluation.scores.mean_iou)}{known}, {images}",
        "scores": output / "eval.json",
        **({"report": output / "report.html"} if report else {}),
    }


def compare_two(options: argparse.Namespace) -> None:
    """Compare two finished evaluations of the same images."""
    from sceneparse.evaluation.compare import compare, text, verdict, write_comparison
    from sceneparse.evaluation.folders import find_scores
    from sceneparse.evaluation.result import read_evaluation

    if useless := given_besides(options, {"compare", "split", "bootstrap", "output", "palette"}):
        raise InputError(
            f"--compare reads finished evaluations, so {first_few(useless)} would change nothing; "
            "use it when evaluating each run"
        )
    first, second = find_scores([Path(run) for run in options.compare], options.split)
    resamples = 10_000 if options.bootstrap is None else options.bootstrap
    if resamples == 0:
        raise InputError("--compare needs resamples; use --bootstrap 1 or more")
    comparison = compare(read_evaluation(first), read_evaluation(second), resamples)
    print(text(comparison))
    in_run = {side: side.name.startswith("eval_") for side in (first, second)}
    sides = [f.parent.name if in_run[f] else f.name for f in (first, second)]
    evaluations = dict.fromkeys(f.name for f in in_run if in_run[f])
    name = "_".join(["compare", *sides, *evaluations])
    output = Path(options.output or Path("runs") / name)
    with writing(output, OTHER_OUTPUT):
        write_comparison(output, comparison, options.palette)
    print_document(output / "compare.json")
    files = {"report": output / "compare.html", "values": output / "compare.json"}
    rows = {"verdict": verdict(comparison).splitlines()[0], **files}
    print_summary("evaluate --compare", {**rows, "plot": output / "differences.png"})
