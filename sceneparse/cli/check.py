"""Check every file of a dataset for damage and twins, or by a network for wrong labels."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import OTHER_OUTPUT, command_parser, create_output, writing
from sceneparse.cli.options import (
    add_device,
    add_json,
    add_option,
    add_palette,
    add_quiet,
    changed,
    number,
    train_command,
)
from sceneparse.cli.output import print_document, print_summary
from sceneparse.errors import InputError, first_few, one_line

if TYPE_CHECKING:
    from sceneparse.data.datasets import SegmentationDataset

EXAMPLES = """\
  sceneparse check data/quickstart
  sceneparse check /data/camvid --dataset camvid --splits train val test
  sceneparse check /data/cityscapes --dataset cityscapes --output checks/cityscapes
  sceneparse check data/mine --model runs/mine
  sceneparse check data/mine --model runs/mine --split train --folds 3

Exit code 2: training would fail, or an image occurs in two splits (unless --allow-twins).

--model looks for wrong labels instead: regions that RUN is sure to be of another class than the
mask says, the most likely errors first, in OUTPUT/suspects.csv and suspects.html. RUN must not have
seen these masks. --folds K trains K more networks with the settings of RUN, each on the other parts
of the split, and questions each part by the one that has not seen it; the same command resumes
them."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("check", "Check every image and mask of a dataset.", EXAMPLES)
    result.add_argument("root", metavar="DATA", help="folder of the dataset")
    add = partial(add_option, result)
    layout = "layout of the files, e.g. camvid or cityscapes; default folder, or that of RUN"
    add("--dataset NAME", layout)
    add("--splits SPLIT...", "splits to check", default=["train", "val"])
    depth = "bits that 16-bit images really use, as data.bit_depth of the training"
    add("--bit-depth N", depth, type=number(int, 9, 16))
    place = "folder for the results; default runs/check_NAME_OF_DATA, or runs/suspects_NAME_SPLIT"
    add("--output FOLDER", place)
    add("--allow-twins", "accept images that occur in two splits")
    add_palette(result)
    add_quiet(result)
    add_json(result, "the findings as JSON (what data.json holds; with --model, the suspects)")
    group = result.add_argument_group("labels that are probably wrong")
    labels = partial(add_option, group)
    labels("--model RUN", "run, checkpoint or exported file that questions the masks")
    split = "split to question; default the validation split, with --folds the training split"
    labels("--split SPLIT", split)
    folds = "train K networks, each of which questions the part of the split that it has not seen"
    labels("--folds K", folds, type=number(int, 2))
    add_device(group)
    return result


def main(options: argparse.Namespace) -> None:
    """Check the files, or with --model the labels; raise InputError if training would fail."""
    require_effect(options)
    if options.model is None:
        check_files(options)
    else:
        from sceneparse.cli.suspects import check_labels

        check_labels(options)


def require_effect(options: argparse.Namespace) -> None:
    """Raise InputError for an option that changes nothing, with or without --model."""
    useless, remedy = ["splits", "bit_depth", "allow_twins"], "has no effect with --model"
    if options.model is None:
        useless = ["split", "folds", "device"]
        remedy = "is for --model RUN; add it, or give --splits"
        options.dataset = options.dataset or "folder"
    if given := changed(options, parser(), useless):
        raise InputError(f"{given[0]} {remedy}")


def check_files(options: argparse.Namespace) -> None:
    """Check all samples, print and write the findings; raise InputError if training would fail."""
    from sceneparse.data.checks.findings import class_problems, note, notes
    from sceneparse.data.checks.full import check_all_samples, find_duplicates, summarise
    from sceneparse.data.checks.page import page_values
    from sceneparse.report.pages import write_page
    from sceneparse.runtime.progress import Progress

    output = Path(options.output or f"runs/check_{Path(options.root).resolve().name}")
    datasets, failures, messages = open_splits(options)
    if not datasets:
        raise InputError(failures[0])
    with writing(output, OTHER_OUTPUT):
        create_output(output)  # before minutes of reading
    count = sum(map(len, datasets.values()))
    with Progress("check", count, "samples") as progress:
        facts = check_all_samples(datasets, progress.advance)
    duplicates = find_duplicates(facts)
    table = next(iter(datasets.values())).table
    summary = summarise(facts, duplicates, table.names)
    failures += [f"{p['split']}: {p['problem']}" for p in summary["problems"]]
    failures += class_problems(summary, table, options.dataset)
    summary["notes"] = [
        *(note(message, remedy_of(message)) for message in messages),
        *notes(facts, summary, table, options.dataset),
    ]
    print_findings(summary, failures)
    if duplicates and not options.allow_twins:
        failures.append(
            f"{len(duplicates)} pairs of images occur in two splits; remove one of each, or split "
            "the images anew (sceneparse convert keeps look-alikes together); for frames of one "
            "fixed camera, where all look alike, accept it with --allow-twins"
        )
    title = f"{options.root} ({options.dataset})"
    page = page_values(title, datasets, facts, duplicates, summary, failures)
    with writing(output, OTHER_OUTPUT):
        text = json.dumps({**summary, "failures": failures}, indent=1)
        (output / "data.json").write_text(text, encoding="utf-8")
        write_page("data_page.html", output / "data.html", page)
    print_document(output / "data.json")
    rows = {
        "checked": f"{count} samples, {len(failures)} problems, {len(summary['notes'])} notes",
        "report": output / "data.html",
        "values": output / "data.json",
    }
    usable = not failures and options.dataset == "folder" and {"train", "val"} <= datasets.keys()
    print_summary("check", rows, train_command(Path(options.root)) if usable else [])
    if failures:
        raise InputError(f"{len(failures)} problems, the first: {failures[0]}")


def open_splits(
    options: argparse.Namespace,
) -> tuple[dict[str, SegmentationDataset], list[str], list[str]]:
    """Return the splits that can be opened, why the others cannot be, and what reading logged."""
    from sceneparse.data.datasets import create_dataset

    datasets, problems = {}, []
    with collected_messages("sceneparse.data") as messages:
        for split in options.splits:
            try:
                datasets[split] = create_dataset(
                    options.dataset,
                    options.root,
                    split,
                    complete=False,
                    bit_depth=options.bit_depth,
                )
                datasets[split].table = datasets[split].table.with_palette(options.palette)
            except InputError as error:
                problems.append(f"{split}: {error}")
    return datasets, problems, messages


def remedy_of(message: str) -> str:
    """Return what to do about a message of reading."""
    if "skipped" in message:
        return "nothing, unless these are images: save those as PNG or JPEG"
    return "nothing, if these belong together; else give each mask the name of its image"


@contextmanager
def collected_messages(name: str) -> Iterator[list[str]]:
    """Collect the messages of a logger, for example which files were skipped."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def print_findings(summary: dict[str, Any], failures: Sequence[str]) -> None:
    """Print a table per split, then notes, problems, suspicious masks and images in two splits."""
    for split, facts in summary["splits"].items():
        sizes = first_few(f"{size} ({count})" for size, count in facts["sizes"].items())
        print(f"\n{split}: {facts['usable']} of {facts['samples']} samples usable; sizes {sizes}")
        counted = sum(row["pixels"] for row in facts["classes"])
        total = max(counted + facts["ignored_pixels"], 1)
        wide = max(len(row["name"]) for row in facts["classes"])
        for row in facts["classes"]:
            share = f"{100 * row['pixels'] / total:8.3f}%"
            print(f"  {row['name']:<{wide}} {share} in {row['images']} images")
        print(f"  {'(ignored)':<{wide}} {100 * facts['ignored_pixels'] / total:8.3f}%")
    first = next(iter(summary["splits"]))
    print(f"\nsplit {first}: mean {summary['mean']}  std {summary['std']} of RGB in 0..1")
    for rule, weights in summary["class_weights"].items():
        print(f"class weights by rule {rule}: {weights}")
    sections = {
        "notes": [f"{n['note']}. What to do: {n['remedy']}" for n in summary["notes"]],
        "problems": list(failures),
        "suspicious masks": [f"{s['mask']}: {s['reason']}" for s in summary["suspicious"]],
        "images in two splits": [f"{t['first']} = {t['second']}" for t in summary["twins"]],
    }
    for heading, lines in sections.items():
        print(f"\n{heading}: {len(lines)}")
        for line in lines[:20]:
            print(f"  {one_line(line)}")
        if len(lines) > 20:
            print(f"  and {len(lines) - 20} more, in data.json")
