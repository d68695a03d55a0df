"""Train networks of segmentation_models.pytorch (SMP) and ours alike on CamVid; compare mean IoU.

All use the same ImageNet weights of MobileNetV2, images of half size, the same loop of training
steps, and the same evaluation at full size. Recipe "ours" is that of this package, "plain" that of
SMP's own CamVid example. In "equal time", a network of SMP is trained for as many epochs as fit
into the training time of ours.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers_runs import (
    EQUAL_TIME_ROWS,
    PEERS,
    RECIPE,
    REFERENCE,
    ROWS,
    Plan,
    Row,
    check_runs,
    train_and_test,
)
from benchmarks.peers_speed import speed_of
from sceneparse.cli.command import command_parser, writing
from sceneparse.errors import InputError, refusing, unknown_name
from sceneparse.evaluation.result import read_evaluation
from sceneparse.report.tables import Table, points, span, write_json
from sceneparse.runtime.distributed import Process
from sceneparse.studies.rows import FinishedRun, StudyRow, read_run, rows_of

EXAMPLES = """\
  python -m benchmarks peers_accuracy --data camvid --weights mobilenetv2_100.safetensors
  python -m benchmarks peers_accuracy --data camvid --weights FILE --speed
  python -m benchmarks peers_accuracy --data camvid --weights FILE --equal-time --split test
  python -m benchmarks peers_accuracy --data camvid --weights FILE --only smp_unet:plain"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("benchmark", str(__doc__), EXAMPLES)
    result.prog = "python -m benchmarks peers_accuracy"
    result.add_argument("settings", nargs="*", help=f"KEY=VALUE: changes of {RECIPE}, for all runs")
    result.add_argument("--data", required=True, help="folder of CamVid, as for dataset camvid")
    result.add_argument("--weights", required=True, help="file of timm's mobilenetv2_100")
    result.add_argument("--epochs", type=int, default=24, help="epochs of each run; default: 24")
    result.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    result.add_argument("--split", choices=["val", "test"], default="val", help="images to test on")
    result.add_argument("--output", type=Path, default=Path("runs/peers_accuracy"), help="folder")
    result.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    result.add_argument("--json", metavar="FILE", help="write the entries to this file as well")
    choice = result.add_mutually_exclusive_group()
    choice.add_argument("--only", nargs="+", metavar="NAME:RECIPE", help="run these rows only")
    choice.add_argument("--equal-time", action="store_true", help="also run SMP in equal time")
    choice.add_argument(
        "--speed", action="store_true", help="only measure training times, in turns"
    )
    return result


def main(options: argparse.Namespace) -> None:
    """Train and test what is not finished, then print and write all that is."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    _check(options)
    rows = _chosen_rows(options)
    device = "cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu"
    plan = Plan(
        data=options.data,
        weights=options.weights,
        settings=options.settings,
        epochs=options.epochs,
        output=options.output,
        process=Process(0, 1, torch.device(device)),
    )
    speed = None
    if options.speed or any(row.in_equal_time for row in rows):
        speed = speed_of(plan)
        print(speed.as_text(), end="\n\n", flush=True)
    if options.speed:
        return
    epochs = {
        row: speed.equal_epochs(row, plan.epochs) if speed and row.in_equal_time else plan.epochs
        for row in rows
    }
    runs = [plan.run(row, seed, epochs[row]) for seed in options.seeds for row in rows]
    check_runs(plan, runs)
    done = sum(train_and_test(plan, run, options.split) for run in runs)
    found = finished_runs(plan.output, options.split)
    entries = [run.as_entry(options.split) for run in found]
    for path in filter(None, (plan.output / "peers_accuracy.json", options.json)):
        with writing(path):
            write_json(Path(path), entries)
    print(f"{done} of {len(runs)} runs are finished\n\n{report(found, options.split)}")


def _check(options: argparse.Namespace) -> None:
    """Raise InputError for numbers and files that cannot be used, before anything is trained."""
    if options.epochs < 1:
        raise InputError(f"--epochs must be at least 1, got {options.epochs}")
    if min(options.seeds) < 0 or len({*options.seeds}) != len(options.seeds):
        raise InputError(f"--seeds must be different numbers from 0, got {options.seeds}")
    if options.json is not None and not Path(options.json).parent.is_dir():
        raise InputError(f"cannot write '{options.json}': its folder does not exist")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU that PyTorch can use; use --device cpu")


def _chosen_rows(options: argparse.Namespace) -> list[Row]:
    if options.only is None:
        return [*ROWS, *(EQUAL_TIME_ROWS if options.equal_time else [])]
    known = {str(row): row for row in (*ROWS, *EQUAL_TIME_ROWS)}
    for name in options.only:
        if "=" in name:
            raise InputError(f"'{name}' is a setting; give settings before --only")
        if name not in known:
            raise unknown_name("row", name, known)
    return [known[name] for name in dict.fromkeys(options.only)]


@dataclass(frozen=True)
class Finished:
    """A finished run: its row, its epochs, and its scores."""

    row: Row
    epochs: int
    scored: FinishedRun

    def as_entry(self, split: str) -> dict[str, Any]:
        """Return it as an entry of peers_accuracy.json."""
        scores, made_by = self.scored.scores, self.scored.made_by
        return {
            "name": self.row.name,
            "recipe": self.row.recipe,
            "seed": self.scored.seed,
            "mean_iou": scores.mean_iou,
            "minutes": self.scored.costs["seconds"] / 60,
            "split": split,
            "epochs": self.epochs,
            "classes": dict(zip(scores.classes, scores.class_ious, strict=True)),
            "parameters": self.scored.costs["parameters"],
            "multiply_adds": self.scored.costs["multiply_adds"],
            **made_by,
        }


def finished_runs(output: Path, split: str) -> list[Finished]:
    """Read all runs below a folder that are tested on a split, in the order of rows and seeds."""
    found = []
    for folder in output.glob(f"*/seed-*/eval_{split}"):
        stored = read_evaluation(folder)
        with refusing(folder / "eval.json", "is not of this benchmark"):
            row = Row(str(stored.how["name"]), str(stored.how["recipe"]))
            seed, epochs = int(stored.how["seed"]), int(stored.how["epochs"])
            place = [*ROWS, *EQUAL_TIME_ROWS].index(row)
        found.append((place, seed, Finished(row, epochs, read_run(str(row), seed, stored))))
    return [run for *_, run in sorted(found, key=lambda item: item[:2])]


def report(found: Sequence[Finished], split: str) -> str:
    """Compare finished runs with those of REFERENCE: a table, and a sentence."""
    if not any(run.row == REFERENCE for run in found):
        return f"no comparison yet: no run of {REFERENCE} is tested on {split}"
    epochs = {str(run.row): run.epochs for run in found}
    compared = rows_of([run.scored for run in found], str(REFERENCE))
    heads = ["", "epochs", f"{split} mean IoU", "95% over seeds", "seeds"]
    heads += [f"minus {REFERENCE.name}, 95% over seeds", "95% over images", "minutes"]
    lines = [_cells(row, epochs[row.name]) for row in compared]
    return f"{Table('', heads, lines).as_text()}\n\n{_sentence(compared)}"


def _cells(row: StudyRow, epochs: int) -> list[str]:
    mean, _, interval = row.spread.cells("{:.4f}".format)
    seeds, images = row.over_seeds, row.over_images
    return [
        *(row.name, str(epochs), mean, interval, str(len(row.runs))),
        f"{points(seeds.value)} ({span(seeds)})" if seeds else "-",
        span(images.interval) if images else "-",
        f"{row.cost('seconds') / 60:.1f}",
    ]


def _sentence(compared: Sequence[StudyRow]) -> str:
    """State how far REFERENCE is ahead of the best network of SMP with each recipe."""
    best: dict[str, StudyRow] = {}
    for row in compared:
        name, _, recipe = row.name.partition(":")
        if name in PEERS and (recipe not in best or row.spread.mean > best[recipe].spread.mean):
            best[recipe] = row
    clauses = []
    for recipe, row in best.items():
        difference = row.over_seeds
        assert difference is not None  # only REFERENCE has none
        ahead, low, high = (-100 * x for x in (difference.value, difference.high, difference.low))
        interval = "no interval" if math.isnan(low) else f"95% interval {low:+.2f} to {high:+.2f}"
        clauses.append(
            f"{abs(ahead):.2f} points {'ahead of' if ahead >= 0 else 'behind'} the best of SMP "
            f"with recipe '{recipe}' ({row.name.partition(':')[0]}; {interval})"
        )
    if not clauses:
        return "no network of SMP is tested yet"
    return f"{REFERENCE.name} with our recipe is " + ", and ".join(clauses) + "."
