"""Evaluate a trained model: per-class and mean IoU at the images' own size, with the protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sceneparse.cli import run, tool_parser

EXAMPLES = """\
  python tools/eval_miou.py runs/quickstart
  python tools/eval_miou.py runs/quickstart/last --split train --save overlay
  python tools/eval_miou.py runs/camvid_mobilenet --data /data/camvid --split test
  python tools/eval_miou.py runs/cityscapes_spnet101 --mode slide --crop 768 768
  torchrun --nproc_per_node=4 tools/eval_miou.py runs/ade20k_spnet50

A run folder stands for its best checkpoint. Scores go to RUN/eval_SPLIT: eval.json, eval.csv,
confusion.csv, examples.png, and with --save the folders index, color, overlay."""


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
        choices=("index", "color", "overlay"),
        help="PNGs per image",
    )
    result.add_argument(
        "--output", metavar="FOLDER", help="where results go; default RUN/eval_SPLIT"
    )
    result.add_argument("--workers", type=int, default=2, help="processes that read images")
    result.add_argument("--amp", choices=("auto", "bf16", "fp16", "off"), default="auto")
    return result


def main(options: argparse.Namespace) -> None:
    """Load the model and data, evaluate, print and write the scores."""
    # Imported late so that --help answers at once.
    from sceneparse.checkpoint import load_model, resolve_checkpoint
    from sceneparse.distributed import join_processes
    from sceneparse.inference import create_infer
    from sceneparse.precision import Compute, choose_dtype

    model, meta = load_model(options.checkpoint)
    dataset = open_dataset(options, meta)
    split = options.split or meta["data"]["val_split"]
    mode = options.mode or meta["eval"]["mode"]
    infer, protocol = create_infer(mode, tuple(options.crop or meta["eval"]["crop"]))
    output = Path(options.output or default_output(Path(options.checkpoint), split))
    with join_processes() as process:
        compute = Compute(process.device, choose_dtype(options.amp, process.device))
        compute.place_model(model)
        matrix, examples = evaluate_split(
            model, dataset, meta, infer, compute, process, output, options
        )
        if process.is_main:
            print(f"checkpoint   {resolve_checkpoint(options.checkpoint)}")
            print(f"data         {len(dataset)} images, split {split}")
            report(matrix, examples, dataset.table, protocol, output)


def open_dataset(options: argparse.Namespace, meta: dict[str, Any]) -> Any:  # noqa: ANN401
    """Open the split to evaluate; its classes must be those of the model."""
    from sceneparse.data.datasets import create_dataset
    from sceneparse.errors import InputError

    trained = meta["data"]
    name = options.dataset or trained["dataset"]
    dataset = create_dataset(
        name,
        options.data or trained["root"],
        options.split or trained["val_split"],
        trained["classes"] if name == trained["dataset"] else None,
    )
    if dataset.table.names != meta["classes"]:
        raise InputError(
            f"the data has {dataset.table.num_classes} classes ({dataset.table.names[0]}, ...), "
            f"the model {len(meta['classes'])} ({meta['classes'][0]}, ...); they must be the same"
        )
    return dataset


def default_output(checkpoint: Path, split: str) -> Path:
    """Put results into the run folder, or beside a checkpoint folder that was named itself."""
    name = f"eval_{Path(split).stem}"
    if (checkpoint / "meta.json").is_file():
        return checkpoint.parent / f"{checkpoint.name}_{name}"
    return checkpoint / name


def evaluate_split(  # noqa: PLR0913, PLR0917 - what an evaluation consists of
    model: Any,  # noqa: ANN401 - types of torch, which is imported late
    dataset: Any,  # noqa: ANN401
    meta: dict[str, Any],
    infer: Any,  # noqa: ANN401
    compute: Any,  # noqa: ANN401
    process: Any,  # noqa: ANN401
    output: Path,
    options: argparse.Namespace,
) -> tuple[Any, list[Any]]:
    """Evaluate this process's share and write the PNGs asked for; return counts and examples."""
    from sceneparse.data.doctor import spread
    from sceneparse.data.loader import batches, evaluation_loader
    from sceneparse.engine import evaluate
    from sceneparse.inference import Normalization
    from sceneparse.logs import Progress
    from sceneparse.report.pictures import ExampleCollector, save_prediction

    table = dataset.table
    shown = {dataset.pairs[index].name for index in spread(len(dataset), 5)}
    collector = ExampleCollector(shown)
    progress = Progress(len(dataset), "images", quiet=not process.is_main)

    def after_batch(batch: Any, labels: Any) -> None:  # noqa: ANN401
        collector.add(batch, labels)
        for image, name, prediction in zip(batch.images, batch.names, labels, strict=True):
            for kind in options.save:
                save_prediction(
                    kind, output / kind / f"{name}.png", image, prediction, table.colors
                )
        progress.advance(len(batch.names) * process.world_size)

    loader = evaluation_loader(
        dataset,
        rank=process.rank,
        world_size=process.world_size,
        workers=options.workers,
        timeout=300,
    )
    matrix = evaluate(
        model,
        batches(loader),
        num_classes=table.num_classes,
        ignore_index=table.ignore_index,
        infer=infer,
        normalize=Normalization(tuple(meta["mean"]), tuple(meta["std"])),
        compute=compute,
        after_batch=after_batch,
    )
    progress.close()
    return matrix, collector.examples


def report(matrix: Any, examples: list[Any], table: Any, protocol: str, output: Path) -> None:  # noqa: ANN401
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
