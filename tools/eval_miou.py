"""Evaluate a trained model: per-class and mean IoU at the images' own size, with the protocol."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli import run, tool_parser

if TYPE_CHECKING:
    from sceneparse.data.datasets import SegmentationDataset
    from sceneparse.data.labels import LabelTable
    from sceneparse.distributed import Process
    from sceneparse.inference import Infer
    from sceneparse.metrics import ConfusionMatrix
    from sceneparse.models.segmentation import SegmentationModel
    from sceneparse.precision import Compute
    from sceneparse.report.pictures import Example

EXAMPLES = """\
  python tools/eval_miou.py runs/quickstart
  python tools/eval_miou.py runs/quickstart/last --split train --save overlay
  python tools/eval_miou.py runs/camvid_mobilenet --data /data/camvid --split test
  python tools/eval_miou.py runs/cityscapes_spnet101 --mode slide --crop 768 768
  torchrun --nproc_per_node=4 tools/eval_miou.py runs/ade20k_spnet50

A run folder stands for its best checkpoint. Scores go to RUN/eval_SPLIT (eval_SPLIT_last and so on
for another checkpoint): eval.json, eval.csv, confusion.csv, examples.png, and with --save the
folders index, raw, color, overlay."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = tool_parser("Evaluate a trained segmentation model.", EXAMPLES)
    result.add_argument("checkpoint", metavar="RUN_OR_CHECKPOINT", help="run or checkpoint folder")
    result.add_argument("--data", metavar="FOLDER", help="data folder; default: as trained")
    result.add_argument("--dataset", metavar="NAME", help="layout of the data; default: as trained")
    result.add_argument(
        "--split", help="split, or list file under the data folder; default: as trained"
    )
    result.add_argument("--mode", choices=("whole", "slide"), help="inference; default: as trained")
    result.add_argument(
        "--crop", nargs=2, type=int, metavar=("H", "W"), help="window of --mode slide"
    )
    result.add_argument(
        "--save",
        nargs="+",
        default=[],
        choices=("index", "raw", "color", "overlay"),
        help="PNGs per image; raw: the data set's own label values, for its submission server",
    )
    result.add_argument(
        "--output", metavar="FOLDER", help="where results go; default RUN/eval_SPLIT"
    )
    result.add_argument("--workers", type=int, default=2, help="processes that read images")
    result.add_argument(
        "--amp", choices=("auto", "bf16", "fp16", "off"), help="precision; default: as trained"
    )
    return result


def main(options: argparse.Namespace) -> None:
    """Load the model and data, evaluate, print and write the scores."""
    # Imported late so that --help answers at once.
    from sceneparse.checkpoint import load_model, resolve_checkpoint
    from sceneparse.distributed import join_processes
    from sceneparse.errors import InputError
    from sceneparse.inference import create_infer
    from sceneparse.precision import Compute, choose_dtype

    if options.workers < 0:
        raise InputError(f"--workers must be 0 or more, got {options.workers}")
    model = load_model(options.checkpoint)
    meta = model.meta
    dataset = open_dataset(options, meta)
    split = options.split or meta["data"]["val_split"]
    mode = options.mode or meta["eval"]["mode"]
    infer, protocol = create_infer(mode, tuple(options.crop or meta["eval"]["crop"]))
    output = prepare_output(options, split)
    with join_processes() as process:
        dtype = choose_dtype(options.amp or meta["config"]["train"]["amp"], process.device)
        compute = Compute(process.device, dtype)
        compute.place_model(model)
        matrix, examples = evaluate_split(
            model,
            dataset,
            infer=infer,
            compute=compute,
            process=process,
            workers=options.workers,
            save=options.save,
            output=output,
        )
        if process.is_main:
            print(f"checkpoint   {resolve_checkpoint(options.checkpoint)}")
            print(f"data         {len(dataset)} images, split {split}")
            print(f"precision    {compute.name}")
            report(matrix, examples, dataset.table, protocol, output)


def open_dataset(options: argparse.Namespace, meta: dict[str, Any]) -> SegmentationDataset:
    """Open the split to evaluate; its classes must be those of the model."""
    from sceneparse.data.datasets import create_dataset
    from sceneparse.errors import InputError

    trained = meta["data"]
    name = options.dataset or trained["dataset"]
    root = options.data or trained["root"]
    # A folder need not name the classes that the model knows.
    unnamed = name == "folder" and not (Path(root) / "classes.txt").is_file()
    split = options.split or trained["val_split"]
    dataset = create_dataset(name, root, split, meta["classes"] if unnamed else None)
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


def evaluate_split(  # noqa: PLR0913 - what an evaluation consists of
    model: SegmentationModel,
    dataset: SegmentationDataset,
    *,
    infer: Infer,
    compute: Compute,
    process: Process,
    workers: int,
    save: Sequence[str],
    output: Path,
) -> tuple[ConfusionMatrix, list[Example]]:
    """Evaluate this process's share and write the PNGs asked for; return counts and examples."""
    from sceneparse.data.doctor import spread
    from sceneparse.data.loader import batches, evaluation_loader, explained_worker_failures
    from sceneparse.engine import evaluate
    from sceneparse.inference import Normalization
    from sceneparse.logs import Progress
    from sceneparse.report.pictures import ExampleCollector, save_prediction

    table = dataset.table
    collector = ExampleCollector({dataset.pairs[i].name for i in spread(len(dataset), 5)})
    progress = Progress(len(dataset), "images", quiet=not process.is_main)

    def after_batch(batch: Any, labels: Any) -> None:  # noqa: ANN401 - torch is imported late
        collector.add(batch, labels)
        for image, name, prediction in zip(batch.images, batch.names, labels, strict=True):
            for kind in save:
                save_prediction(kind, output / kind / f"{name}.png", image, prediction, table)
        progress.advance(len(batch.names) * process.world_size)

    loader = evaluation_loader(
        dataset, rank=process.rank, world_size=process.world_size, workers=workers, timeout=300
    )
    with explained_worker_failures():
        matrix = evaluate(
            model,
            batches(loader),
            num_classes=table.num_classes,
            ignore_index=table.ignore_index,
            infer=infer,
            normalize=Normalization(model.mean, model.std),
            compute=compute,
            after_batch=after_batch,
        )
    progress.close()
    return matrix, collector.examples


def report(
    matrix: ConfusionMatrix,
    examples: list[Example],
    table: LabelTable,
    protocol: str,
    output: Path,
) -> None:
    """Print the table and the rules it was made by; write the files beside it."""
    from sceneparse.metrics import ABSENT_CLASS_RULE
    from sceneparse.report.pictures import example_grid, save_png
    from sceneparse.report.tables import (
        score_table,
        scores_as_dict,
        write_confusion,
        write_scores,
    )

    scores = matrix.scores()
    print(f"protocol     {protocol}")
    print(f"counting     {ABSENT_CLASS_RULE}\n")
    print(score_table(scores, table.names))
    save_png(example_grid(examples, table.names, table.colors), output / "examples.png")
    write_confusion(output / "confusion.csv", matrix.counts.cpu().numpy(), table.names)
    write_scores(output, scores_as_dict(scores, table.names, protocol))
    print(f"\nscores       {output / 'eval.json'}, {output / 'eval.csv'}")
    print(f"pictures     {output / 'examples.png'}")


if __name__ == "__main__":
    run(parser(), main)
