"""Search the settings of classification runs: a trial for each choice, in many processes."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser

if TYPE_CHECKING:
    from optuna.study import Study

    from sceneparse.studies.sweep.plan import Plan

EXAMPLES = """\
  sceneparse sweep sweep_report
  sceneparse sweep sweep_report train.epochs=10 optim.milestones=[5,8]
  sceneparse sweep sweep_report --workers 4 --storage postgresql://me@host/sweeps

The YAML has the shape of a W&B sweep (method, metric, parameters, run_cap, early_terminate) and
names the configuration of the runs. Every trial is a run as of `sceneparse classify`, in
OUTPUT/trial-N; OUTPUT gets sweep.json, sweep.csv and pictures. The same command goes on with a
sweep that was stopped or killed, on any number of machines with one --storage, and prints the
results of one that is finished. A password may be given by PGPASSWORD or ~/.pgpass."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("sweep", "Search the settings of classification runs.", EXAMPLES)
    result.add_argument("sweep", metavar="YAML", help="file or recipe: what is searched, and how")
    result.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="changed settings of the runs"
    )
    result.add_argument("--workers", type=int, default=1, metavar="N", help="processes, default 1")
    result.add_argument("--trials", type=int, metavar="N", help="trials in all, instead of run_cap")
    result.add_argument(
        "--storage",
        metavar="PLACE",
        help="postgresql://USER@HOST/DATABASE, or an SQLite file; default: OUTPUT/sweep.db",
    )
    return result


def main(options: argparse.Namespace) -> None:
    """Check everything, carry out what is left of the sweep, show what came of it."""
    from sceneparse.errors import InputError, Preempted

    for name in ("workers", "trials"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise InputError(f"--{name} must be at least 1, got {number}")
    if missing := [name for name in ("optuna", "sklearn") if find_spec(name) is None]:
        raise InputError(f"{missing[0]} is not installed; run: pip install 'sceneparse[sweep]'")

    from sceneparse.config.recipes import find_config
    from sceneparse.studies.sweep.plan import read_plan
    from sceneparse.studies.sweep.storage import explained_failures, open_storage

    plan = read_plan(find_config(options.sweep), options.overrides, options.trials)
    place = options.storage or str(plan.output / "sweep.db")

    # Imported late so that what is wrong with the YAML is said at once.
    from sceneparse.studies.sweep.study import open_study, refuse_foreign_folder
    from sceneparse.studies.sweep.supervisor import supervise
    from sceneparse.studies.sweep.worker import check_runs

    refuse_foreign_folder(plan.output)
    check_runs(plan)
    with explained_failures():
        study = open_study(plan, open_storage(place))
        stopped_by = supervise(plan, place, study, options.workers)
        show(plan, study)
    if stopped_by is not None:
        raise Preempted(f"{stopped_by} received; go on with the same command")
    complain_of_failures(plan, study)


def show(plan: Plan, study: Study) -> None:
    """Print the table, write the files, and say what they are and what is missing."""
    from sceneparse.studies.sweep.results import best_of, caution, rows_of, table, write_results
    from sceneparse.studies.sweep.study import attempts_of

    attempts = attempts_of(study)
    rows = rows_of(plan, attempts)
    missing = write_results(plan, attempts)
    print(f"\n{table(plan, rows)}\n")
    if caution(plan):
        print(caution(plan) + "\n")
    best = best_of(plan, rows)
    if best is not None:
        print(f"best         trial {best.trial}, {plan.folder(best.trial)}")
    print(f"results      {plan.output}/sweep.json, sweep.csv, pictures as .png and .svg")
    for name, reason in missing.items():
        print(f"left out     {name}: {reason}")


def complain_of_failures(plan: Plan, study: Study) -> None:
    """Raise InputError where all trials that ended failed."""
    from sceneparse.errors import InputError
    from sceneparse.studies.sweep.results import rows_of
    from sceneparse.studies.sweep.study import attempts_of

    ended = [row for row in rows_of(plan, attempts_of(study)) if row.ended]
    if ended and all(row.state == "failed" for row in ended):
        raise InputError(f"all {len(ended)} trials failed, the first one: {ended[0].note}")
