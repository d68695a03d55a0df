"""`sceneparse check DATA --model RUN`: find labels that are probably wrong."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import OTHER_OUTPUT, create_output, writing
from sceneparse.cli.evaluated_data import open_dataset
from sceneparse.cli.output import lines_of, print_document, print_summary
from sceneparse.errors import InputError, one_line

if TYPE_CHECKING:
    import torch

    from sceneparse.config.segmentation import SegConfig
    from sceneparse.data.datasets import SegmentationDataset
    from sceneparse.suspects.search import Parts, Suspect

# Suspects that are printed.
_PRINTED = 10


def check_labels(options: argparse.Namespace) -> None:
    """Predict every mask by a network that has not seen it; print and write what disagrees."""
    from sceneparse.data.sample_checks import check_samples
    from sceneparse.inference.networks import load_network, source_of
    from sceneparse.inference.predictor import Predictor
    from sceneparse.runtime.progress import Progress
    from sceneparse.suspects.folds import fold_settings
    from sceneparse.suspects.search import search

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--model runs in one process; start the command without torchrun")
    model = load_network(options.model)
    predictor = Predictor(model, device=options.device)
    trained = {**model.meta.get("data", {}), **model.meta.get("config", {}).get("data", {})}
    layout = options.dataset or trained.get("dataset", "folder")
    split = options.split or usual_split(trained, folds=options.folds)
    dataset = open_dataset(
        argparse.Namespace(dataset=layout, data=options.root, split=split), model
    )
    facts = {
        "data": f"{len(dataset)} images, split {split} of {options.root}",
        "network": str(source_of(options.model)),
    }
    config = None
    if options.folds is not None:
        root = str(Path(options.root).resolve())
        data = {"dataset": layout, "root": root, "train_split": split, "val_split": split}
        config = fold_settings(model.meta, options.model, data)
    elif warning := seen_before(trained, split):
        facts["warning"] = warning
    with Progress("check data", len(dataset), "samples") as progress:
        check_samples(dataset, range(len(dataset)), layout, progress.advance)
    name = Path(options.root).resolve().name
    output = Path(options.output or f"runs/suspects_{name}_{Path(split).stem}")
    with writing(output, OTHER_OUTPUT):
        create_output(output)
        parts: Parts = [(predictor, range(len(dataset)))]
        if config is not None:
            parts = predict_folds(options, config, dataset, output, facts)
        suspects = search(dataset, parts)
        # Networks of folds keep the colours of the dataset.
        dataset.table = dataset.table.with_palette(options.palette)
        device = predictor.compute.device
        report(f"Labels of {name} to look at", dataset, suspects, facts, output, device)


def usual_split(trained: dict[str, Any], *, folds: int | None) -> str:
    """Return the split to check: that of training with folds, else that of validation."""
    key, usual = ("val_split", "val") if folds is None else ("train_split", "train")
    return str(trained.get(key) or usual)


def seen_before(trained: dict[str, Any], split: str) -> str | None:
    """Return a warning if a network may have been trained on the split that it is to question."""
    remedy = "it agrees with wrong labels that it was trained on; add --folds 3"
    if trained.get("train_split") is None:
        return f"the network does not tell what it was trained on; if on these images, {remedy}"
    if trained["train_split"] != split:
        return None
    where = f"split {split} of {trained.get('root')}"
    return f"the network was trained on {where}; if these are its images, {remedy}"


def predict_folds(
    options: argparse.Namespace,
    config: SegConfig,
    dataset: SegmentationDataset,
    output: Path,
    facts: dict[str, str],
) -> Parts:
    """Train a network per fold; return each with the images that it has not seen."""
    from sceneparse.inference.predictor import Predictor
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.suspects.folds import plan_folds, train_folds

    start = config.model.pretrained
    if start is not None and Path(start).is_dir():
        facts["warning"] = (
            f"the networks of the folds start from '{start}', as that of '{options.model}' did; if "
            "it was trained on these images, their wrong labels are harder to find"
        )
    folds = plan_folds(dataset, options.folds)
    facts["folds"] = folds.note
    with join_processes(options.device) as process:
        checkpoints = train_folds(config, dataset, folds, output, process)
    return (
        (Predictor(checkpoint, device=options.device), members)
        for checkpoint, members in zip(checkpoints, folds.members, strict=True)
    )


def report(
    title: str,
    dataset: SegmentationDataset,
    suspects: Sequence[Suspect],
    facts: dict[str, str],
    output: Path,
    device: torch.device,
) -> None:
    """Print the facts and the first suspects; write suspects.csv and suspects.html."""
    from sceneparse.report.tables import Table
    from sceneparse.suspects.page import suspect_rows, write_suspects_page, write_table
    from sceneparse.suspects.regions import DEFINITION

    images = len({suspect.image for suspect in suspects})
    found = {"suspects": f"{len(suspects)} regions in {images} of {len(dataset)} images"}
    facts = {**facts, **found, "a suspect": DEFINITION}
    print("\n".join(lines_of(facts)))
    values, rows = suspect_rows(dataset, suspects), []
    for row in values[:_PRINTED]:
        classes = "{labelled} -> {suggested}".format_map(row)
        probabilities = "{label_quality:.2f} -> {confidence:.2f}".format_map(row)
        place = "{x}, {y}  {width}x{height}".format_map(row)
        cells = [str(row["rank"]), one_line(row["image"]), classes, probabilities, place]
        rows.append([*cells, f"{row['score']:.0f}"])
    heads = ["", "image", "label -> suggestion", "probabilities", "x, y  size", "score"]
    if rows:
        print("\n" + Table(title, heads, rows).as_text(numbers=False))
    page, table = output / "suspects.html", output / "suspects.csv"
    write_table(table, values)
    write_suspects_page(page, title, dataset, suspects, facts, device)
    print_document({"how": facts, "suspects": values})
    print_summary("check", {**found, "report": page, "table": table})
