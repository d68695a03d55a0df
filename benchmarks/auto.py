"""Compare `sceneparse auto` with recipes chosen by hand, in the same minutes, on held-out images.

Five datasets, of which auto and the recipes get the same images. Recipes of ours and of
segmentation_models.pytorch (SMP) are chosen on validation, each kind for itself. Regret is how far
auto is behind the one of the two that is better on validation. A call does the runs that are not
finished; a run that was killed starts again. Auto and `--speeds` need a quiet machine, the training
of the recipes does not: it takes the steps of the stored speeds, with `--device cuda` on a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.auto_data import SETS, prepare
from benchmarks.auto_runs import CPU, ROWS, Task, carry_out, plan_of, stored_speed
from sceneparse.cli.command import command_parser, writing
from sceneparse.errors import InputError, NumericalError, first_few, refusing
from sceneparse.files import MAX_DESCRIPTION, read_json
from sceneparse.models.weights import read_weights
from sceneparse.report.tables import Table, plain, points, write_json
from sceneparse.runs.atomic import replace_text
from sceneparse.runs.lock import RunLock
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.versions import provenance

EXAMPLES = """\
  python -m benchmarks auto --packs data --weights FILE --work FOLDER --plan
  python -m benchmarks auto --packs data --weights FILE --work FOLDER --json results/auto.json
  python -m benchmarks auto --packs data --weights FILE --work FOLDER --only 'camvid:3:*'
  python -m benchmarks auto --packs data --weights FILE --work FOLDER --only '*:auto' --minutes 10

A run is named DATA:MINUTES:SEED:ROW."""
# Minutes and seeds on all datasets, and those on some.
_MINUTES, _SEEDS = (3.0, 10.0), (0, 1)
_LONG_MINUTES, _LONG_SETS, _LONG_SEEDS = (30.0,), ("camvid", "crackforest"), (0,)
# Seconds of a run beside its minutes, until one has finished.
_USUAL_REST = 60.0
# The share of the minutes that a run may take more or less.
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Finished:
    """A finished run: its scores, 0..1, its seconds, and what else was stored about it."""

    task: Task
    val: float
    held_out: float
    seconds: float
    rest: float
    facts: dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("benchmark", str(__doc__), EXAMPLES)
    result.prog = "python -m benchmarks auto"
    add = result.add_argument
    add("--packs", type=Path, required=True, help="folder of camvid, crackforest and membrane")
    add("--weights", type=Path, required=True, help="file of timm's mobilenetv2_100")
    add("--work", type=Path, required=True, help="folder for data and runs, outside the checkout")
    add("--minutes", type=float, nargs="+", help="other minutes, on all datasets")
    add("--seeds", type=int, nargs="+", help="other seeds, on all datasets")
    add("--only", nargs="+", metavar="PATTERN", help="runs of these names only; * is any text")
    add("--speeds", action="store_true", help="only measure the speeds of the recipes by hand")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="that trains recipes by hand")
    add("--plan", action="store_true", help="only list the runs that are not finished")
    add("--json", metavar="FILE", help="write the entries to this file as well")
    return result


def main(options: argparse.Namespace) -> None:
    """Make the runs that are not finished, then print and write all that are."""
    tasks = chosen_tasks(options.minutes, options.seeds, options.only)
    work = options.work.resolve()
    missing = [task for task in tasks if not _file(work, task).is_file()]
    if options.plan:
        print(plan_text(missing, len(tasks), finished_runs(work)))
        return
    _check(options, missing)
    with writing(work):
        (work / "rows").mkdir(parents=True, exist_ok=True)
    lock = RunLock(work)
    lock.acquire()
    try:
        if options.speeds:
            _measure_all(tasks, options, work)
            return
        failed = list(_carry_out_all(missing, options, work))
    finally:
        lock.release()
    entries = entries_of(finished_runs(work))
    for path in filter(None, (work / "auto.json", options.json)):
        with writing(path):
            write_json(Path(path), entries)
    print(f"{len(tasks) - len(failed)} of {len(tasks)} runs are finished\n\n{report(entries)}")
    if failed:
        raise InputError(f"{len(failed)} runs failed: {first_few(failed)}; see the lines above")


def chosen_tasks(
    minutes: Sequence[float] | None, seeds: Sequence[int] | None, only: Sequence[str] | None
) -> list[Task]:
    """Return the runs to make, short ones first; raises InputError if there are none."""
    if any(not 0 < number < math.inf for number in minutes or ()):
        raise InputError(f"--minutes must be above 0, got {minutes}")
    if any(seed < 0 for seed in seeds or ()):
        raise InputError(f"--seeds must be numbers from 0, got {seeds}")
    cells = [*product(minutes or _MINUTES, seeds or _SEEDS, SETS)]
    if minutes is None and seeds is None:
        cells += product(_LONG_MINUTES, _LONG_SEEDS, _LONG_SETS)
    tasks = [Task(data, m, seed, row) for m, seed, data in dict.fromkeys(cells) for row in ROWS]
    for pattern in only or ():
        if not any(fnmatchcase(str(task), pattern) for task in tasks):
            raise InputError(
                f"--only: no run is named '{pattern}'; names are like {tasks[0]} and {tasks[-1]}"
            )
    patterns = only or ("*",)
    return [task for task in tasks if any(fnmatchcase(str(task), p) for p in patterns)]


def _check(options: argparse.Namespace, tasks: Sequence[Task]) -> None:
    """Raise InputError for anything that is missing, before the first minutes are spent."""
    checkout = Path(__file__).parents[1]
    if options.work.resolve().is_relative_to(checkout):
        raise InputError(f"--work '{options.work}' is in the checkout {checkout}; move it out")
    if options.json is not None and not Path(options.json).parent.is_dir():
        raise InputError(f"cannot write '{options.json}': its folder does not exist")
    read_weights(options.weights)
    if any(ROWS[task.row] == "smp" for task in tasks):
        if find_spec("segmentation_models_pytorch") is None:
            raise InputError(
                "segmentation_models.pytorch is not installed; run: pip install "
                "'segmentation-models-pytorch==0.6.*', or leave its rows out with --only"
            )
        from benchmarks.smp import create_peer

        create_peer("smp_unet", 2, options.weights)
    with writing(options.work):
        for name in dict.fromkeys(task.data for task in tasks):
            prepare(name, options.packs, options.work.resolve() / "data")


def _measure_all(tasks: Sequence[Task], options: argparse.Namespace, work: Path) -> None:
    """Measure and print the speeds of the hand recipes of some tasks."""
    weights = options.weights.resolve()
    by_hand = {(task.data, task.row): task for task in tasks if ROWS[task.row] != "auto"}
    for (data, row), task in by_hand.items():
        prepared = prepare(data, options.packs, work / "data")
        place = work / "runs" / "speeds"
        place.mkdir(parents=True, exist_ok=True)
        speed = stored_speed(task, prepared, plan_of(prepared, place, weights, CPU))
        print(f"{data} {row}: {1000 * speed.step:.0f} ms per step", flush=True)


def _carry_out_all(
    tasks: Sequence[Task], options: argparse.Namespace, work: Path
) -> Iterator[Task]:
    """Make the runs one by one and store each; yield those that failed."""
    process = Process(0, 1, torch.device(options.device))
    for number, task in enumerate(tasks, start=1):
        print(f"\n{task} ({number} of {len(tasks)})", flush=True)
        prepared = prepare(task.data, options.packs, work / "data")
        place = work / "runs" / task.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        start = time.perf_counter()
        try:
            found = carry_out(task, prepared, place, options.weights.resolve(), process)
        except (InputError, NumericalError) as error:
            print(f"failed: {error}", flush=True)
            yield task
            continue
        wall = time.perf_counter() - start
        entry = {**asdict(task), **found, "wall_seconds": wall, **provenance(process.device)}
        replace_text(_file(work, task), json.dumps(plain(entry), indent=1) + "\n")
        print(f"held-out mean IoU {found['held_out']:.4f} in {found['seconds_used']:.0f} s")


def _file(work: Path, task: Task) -> Path:
    """Return the file of a finished run."""
    return work / "rows" / f"{task.name}.json"


def finished_runs(work: Path) -> list[Finished]:
    """Read the files of all finished runs, in the order in which they are made."""
    found = []
    for path in work.glob("rows/*.json"):
        facts = read_json(path, MAX_DESCRIPTION)
        with refusing(path, "is not of this benchmark"):
            task = Task(*(facts.pop(key) for key in ("data", "minutes", "seed", "row")))
            place = task.minutes, task.seed, [*SETS].index(task.data), [*ROWS].index(task.row)
            val, held_out, used = (facts.pop(k) for k in ("val", "held_out", "seconds_used"))
            rest = facts.pop("wall_seconds") - used
        found.append((place, Finished(task, val, held_out, used, rest, facts)))
    return [run for _, run in sorted(found, key=lambda item: item[0])]


def plan_text(missing: Sequence[Task], total: int, finished: Sequence[Finished]) -> str:
    """List the runs that are not finished, with an estimate of their time."""
    lines = []
    for task in missing:
        rests = [run.rest for run in finished if run.task.data == task.data] or [_USUAL_REST]
        lines.append((str(task), task.minutes + mean(rests) / 60))
    hours = sum(minutes for _, minutes in lines) / 60
    named = "\n".join(f"{name}  {minutes:.1f} min" for name, minutes in lines)
    return f"{named}\n{len(missing)} of {total} runs are left: about {hours:.1f} h".strip()


def entries_of(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """Return an entry per dataset, minutes and seed: auto, and the best of each kind by hand."""
    cells: dict[tuple[str, float, int], list[Finished]] = {}
    for run in finished:
        cells.setdefault((run.task.data, run.task.minutes, run.task.seed), []).append(run)
    return [_entry(cell, runs) for cell, runs in cells.items()]


def _entry(cell: tuple[str, float, int], runs: Sequence[Finished]) -> dict[str, Any]:
    """Compare the runs of a dataset, minutes and seed; what is not finished yet is None.

    Raises InputError if the minutes of runs are those of different machines.
    """
    machines = {run.facts.get("speed", run.facts)["machine"] for run in runs}
    if len(machines) > 1:
        raise InputError(
            f"minutes of different machines: {first_few(sorted(machines))}; delete one"
        )
    best: dict[str, Finished | None] = {}
    for kind in ("auto", "hand", "smp"):
        own = [run for run in runs if ROWS[run.task.row] == kind]
        best[kind] = max(own, key=lambda run: run.val, default=None)
    auto, hand, smp = best.values()
    regret = None
    if auto and hand and smp:
        regret = max((hand, smp), key=lambda run: run.val).held_out - auto.held_out
    return {
        **dict(zip(("data", "minutes", "seed"), cell, strict=True)),
        **{kind: run and run.held_out for kind, run in best.items()},
        "regret": regret,
        "seconds_used": auto and auto.seconds,
        "hand_recipe": hand and hand.task.row,
        "smp_recipe": smp and smp.task.row,
        "missing": [row for row in ROWS if row not in {run.task.row for run in runs}],
        "rows": {
            run.task.row: {
                "val": run.val,
                "held_out": run.held_out,
                "seconds_used": run.seconds,
                **run.facts,
            }
            for run in runs
        },
    }


def report(entries: Sequence[dict[str, Any]]) -> str:
    """Lay the entries out as a table, and sum them up."""
    heads = ["", "minutes", "seed", "auto", "hand", "SMP", "regret", "seconds", "of the minutes"]
    heads += ["best by hand", "best of SMP", "recipes"]
    lines = [_cells(entry) for entry in entries]
    return f"{Table('', heads, lines).as_text()}\n\n{_sentence(entries)}"


def _cells(entry: dict[str, Any]) -> list[str]:
    used, by_hand = entry["seconds_used"], len(ROWS) - 1
    recipes = by_hand - len([row for row in entry["missing"] if row != "auto"])
    return [
        *(entry["data"], f"{entry['minutes']:g}", str(entry["seed"])),
        *("-" if (v := entry[kind]) is None else f"{v:.4f}" for kind in ("auto", "hand", "smp")),
        "-" if entry["regret"] is None else points(entry["regret"]),
        *(("-", "-") if used is None else (f"{used:.0f}", f"{_share(entry):.0%}")),
        *(entry["hand_recipe"] or "-", entry["smp_recipe"] or "-", f"{recipes} of {by_hand}"),
    ]


def _share(entry: dict[str, Any]) -> float:
    """Return the share of its minutes that auto took."""
    return float(entry["seconds_used"]) / 60 / float(entry["minutes"])


def _sentence(entries: Sequence[dict[str, Any]]) -> str:
    """State the mean and the largest regret, and how often auto kept its time."""
    compared = [entry for entry in entries if entry["regret"] is not None]
    if not compared:
        return "no regret yet: it needs a run of auto, of a hand recipe and of SMP"
    worst = max(compared, key=lambda entry: float(entry["regret"]))
    kept = sum(abs(_share(entry) - 1) <= _TOLERANCE for entry in compared)
    return (
        f"mean regret {points(mean(entry['regret'] for entry in compared))} points of mean IoU "
        f"over {len(compared)} comparisons, largest {points(worst['regret'])} ({worst['data']}, "
        f"{worst['minutes']:g} minutes, seed {worst['seed']}); auto kept its time within "
        f"{_TOLERANCE:.0%} in {kept} of {len(compared)}."
    )
