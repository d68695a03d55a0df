"""Score label files that any program wrote, against the masks of a dataset."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import OTHER_OUTPUT, command_parser, create_output, writing
from sceneparse.cli.evaluate import RULES, score_rows
from sceneparse.cli.options import add_json, add_option, add_palette, add_quiet, changed, number
from sceneparse.cli.output import print_document, print_summary
from sceneparse.errors import InputError, first_few

if TYPE_CHECKING:
    from sceneparse.scoring.matching import Matches

EXAMPLES = """\
  sceneparse score predictions /data/cityscapes --dataset cityscapes --split val
  sceneparse score predictions masks --classes classes.txt
  sceneparse score predictions /data/ade20k --dataset ade20k --split val --ids train
  sceneparse score runs/quickstart/eval_val/index data/quickstart --split val --boundary
  sceneparse evaluate --compare runs/score_ours runs/score_theirs

PREDICTIONS is a folder of label files (8 or 16 bits, palette, or the classes' colours) of any
program. Names may differ by marks such as _pred, _leftImg8bit or _gtFine_labelIds, and by folders.
TRUTH is a folder of masks, or with --split the root of a dataset, of which only these masks need to
exist. Nothing is resized, and nothing is left out without being counted.
Results go to OUTPUT, as those of `sceneparse evaluate`."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("score", "Score label files of any program against masks.", EXAMPLES)
    result.add_argument(
        "predictions", type=Path, metavar="PREDICTIONS", help="folder of label files"
    )
    result.add_argument(
        "truth", type=Path, metavar="TRUTH", help="folder of masks, or dataset root"
    )
    add = partial(add_option, result)
    add("--dataset NAME", "whose classes the values mean; default by classes.txt or file names")
    add("--split SPLIT", "split of the dataset in TRUTH")
    add("--classes FILE", "class names, one per line (line k names value k)", type=Path)
    meaning = (
        "meaning of the values in {}, if they leave it open: the dataset's or train ids 0..K-1"
    )
    add("--ids KIND", meaning.format("PREDICTIONS"), choices=("raw", "train"))
    add("--truth-ids KIND", meaning.format("TRUTH"), choices=("raw", "train"))
    add("--partial", "score the predictions that exist, although masks lack one")
    add("--rule RULE", "classes that count in the mean", choices=RULES, default=RULES[0])
    add("--exclude CLASS...", "leave classes out of the means", default=[])
    add("--report", "also write report.html, and plots as PNG and SVG")
    add("--images FOLDER", "the images, for the pictures of the report", type=Path)
    add_palette(result)
    add("--boundary", "also compute boundary IoU and boundary F1")
    resamples = "95% intervals by a bootstrap of N draws instead of the jackknife, 0: none"
    add("--bootstrap N", resamples, type=number(int, 0))
    add("--output FOLDER", "folder for the results; default runs/score_PREDICTIONS", type=Path)
    add_quiet(result)
    add_json(result, "the scores as JSON (what eval.json holds)")
    return result


def main(options: argparse.Namespace) -> None:
    """Match, read and count the files, print and write the scores."""
    from sceneparse.evaluation.page import write_report
    from sceneparse.evaluation.result import excluded_classes, text, write_evaluation
    from sceneparse.runtime.progress import Progress
    from sceneparse.scoring.encoding import find_encoding
    from sceneparse.scoring.matching import match_files
    from sceneparse.scoring.pictures import kept_pictures
    from sceneparse.scoring.score import How, Readers, score_files
    from sceneparse.scoring.truth import find_truth

    require_effect(options)
    truth = find_truth(options.truth, options.dataset, options.split, options.classes)
    if not options.predictions.is_dir():
        raise InputError(f"'{options.predictions}' is no folder; give that of the label files")
    matched = match_files(options.predictions, truth.masks)
    require_complete(matched, partial=options.partial)
    of = partial(find_encoding, table=truth.table)
    readers = Readers(
        of([m.prediction for m in matched.matches], ids=options.ids, option="--ids"),
        of([m.truth for m in matched.matches], ids=options.truth_ids, option="--truth-ids"),
    )
    how = How(
        rule=options.rule,
        resamples=options.bootstrap,
        with_boundary=options.boundary,
        with_regions=options.report,
        excluded=excluded_classes(options.exclude, truth.table.names),
        facts=facts_of(options, matched, readers.prediction.description, readers.truth.description),
        settings={"dataset": truth.dataset, "data": str(options.truth), "split": options.split},
    )
    kept, keep = kept_pictures(matched.matches, readers, options.images, how.excluded)
    with Progress("score", len(matched.matches), "images") as progress:

        def after_image(number: int, prediction: Any, counts: Any) -> None:  # noqa: ANN401 - arrays
            if options.report:
                keep(number, prediction, counts)
            progress.advance()

        evaluation = score_files(matched.matches, readers, how, after_image)
    print(text(evaluation))
    name = options.predictions.resolve().name
    output = options.output or Path("runs") / f"score_{name}"
    with writing(output, OTHER_OUTPUT):
        create_output(output)
        write_evaluation(output, evaluation)
        if options.report:
            table = evaluation.table.with_palette(options.palette)
            evaluation = replace(evaluation, table=table)
            write_report(output, f"{name} against {options.truth}", evaluation, kept)
    print_document(output / "eval.json")
    rows = score_rows(evaluation, output, report=options.report)
    compare = ["sceneparse", "evaluate", "--compare", str(output), "OTHER"]
    print_summary("score", {**rows, "images": output / "images.csv"}, compare)


def require_effect(options: argparse.Namespace) -> None:
    """Raise InputError for an option of the pictures if there will be none."""
    if not options.report and (given := changed(options, parser(), ("images", "palette"))):
        raise InputError(f"{given[0]} is for the pictures of --report; add it")


def require_complete(matched: Matches, *, partial: bool) -> None:
    """Raise InputError for masks without a prediction, unless only those that exist are scored."""
    alone = matched.without_prediction
    total = len(matched.matches) + len(alone)
    if alone and not partial:
        raise InputError(
            f"{len(alone)} of {total} masks have no prediction: {first_few(alone)}; add them, or "
            "score the others alone with --partial"
        )


def facts_of(
    options: argparse.Namespace, matched: Matches, prediction_ids: str, truth_ids: str
) -> dict[str, str]:
    """Return what was scored, by heading, with all files that were left out."""
    split = f", split {options.split}" if options.split else ""
    facts = {
        "predictions": f"{len(matched.matches)} files in {options.predictions}, {prediction_ids}",
        "truth": f"{options.truth}{split}, {truth_ids}",
    }
    if alone := matched.without_prediction:
        facts["not scored"] = f"{len(alone)} masks without a prediction: {first_few(alone, 3)}"
    if extra := matched.without_truth:
        names = first_few((path.name for path in extra), 3)
        facts["left out"] = f"{len(extra)} predictions without a mask: {names}"
    return facts
