"""Search settings of classifiers: one trial per combination, in several processes."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser
from sceneparse.cli.options import add_licences, add_option, add_quiet, number
from sceneparse.cli.output import print_summary

if TYPE_CHECKING:
    from optuna.study import Study

    from sceneparse.studies.sweep.plan import Plan
    from sceneparse.studies.sweep.results import Row

EXAMPLES = """\
  sceneparse sweep sweep_report
  sceneparse sweep sweep_report train.epochs=10 optim.milestones=[5,8]
  sceneparse sweep sweep_report --workers 4 --storage postgresql://me@host/sweeps

The YAML has the shape of a W&B sweep (method, metric, parameters, run_cap, early_terminate) and
names the configuration of the runs. Every trial is a run like those of `sceneparse classify`, in
OUTPUT/trial-N; OUTPUT gets sweep.json and a picture. The same command resumes a sweep that was
stopped or killed, on any number of machines with one --storage, and prints the results of a
finished one. A password may be given by PGPASSWORD or ~/.pgpass."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("sweep", "Search the settings of classification runs.", EXAMPLES)
    result.add_argument("sweep", metavar="YAML", help="sweep: a file, or the name of a recipe")
    result.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="other settings for all runs"
    )
    storage = "postgresql://USER@HOST/DATABASE, or an SQLite file; default: OUTPUT/sweep.db"
    at_least_one = number(int, 1)
    add_option(result, "--workers N", "number of processes", type=at_least_one, default=1)
    add_option(result, "--trials N", "number of trials instead of run_cap", type=at_least_one)
    add_option(result, "--storage PLACE", storage)
    add_licences(result)
    add_quiet(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Check everything, run what is left of the sweep, print and write its results."""
    from sceneparse.errors import InputError, Preempted, not_installed

    if missing := [name for name in ("optuna", "sklearn") if find_spec(name) is None]:
        raise not_installed(missing[0], "sweep")

    from sceneparse.config.recipes import find_config
    from sceneparse.studies.sweep.plan import read_plan
    from sceneparse.studies.sweep.study import explained_failures, open_storage, open_study

    plan = read_plan(find_config(options.sweep), options.overrides, options.trials)
    place = options.storage or str(plan.output / "sweep.db")

    # Imported late, so that errors in the YAML are printed at once.
    from sceneparse.studies.sweep.worker import check_runs, run_workers

    check_runs(plan, options.licences)
    with explained_failures():
        study = open_study(plan, open_storage(place))
        stopped_by = run_workers(plan, place, study, options.workers, quiet=options.quiet)
        rows = show(plan, study)
    if stopped_by is not None:
        raise Preempted(f"{stopped_by} received; resume with the same command")
    if all(row.state == "failed" for row in rows):
        raise InputError(f"all {len(rows)} trials failed, the first one: {rows[0].note}")


def show(plan: Plan, study: Study) -> list[Row]:
    """Print the table, write the files, and list them; return the rows of the table."""
    from sceneparse.studies.sweep.results import best_of, caution, rows_of, table, write_results
    from sceneparse.studies.sweep.study import attempts_of

    attempts = attempts_of(study)
    rows = rows_of(plan, attempts)
    importance = write_results(plan, attempts)
    print(f"\n{table(plan, rows)}\n")
    if warning := caution(plan):
        print(warning + "\n")
    best = best_of(plan, rows)
    lines: dict[str, object] = {"best": "none: no trial is complete"}
    if best is not None:
        lines = {"best": f"trial {best.trial}", "run folder": plan.folder(best.trial)}
    if importance:  # from four complete trials on
        shares = (f"{key} {share:.2f}" for key, share in importance.items())
        lines["importance"] = f"{', '.join(shares)} (fANOVA)"
    lines |= {"values": plan.output / "sweep.json"}
    lines |= {"plot": plan.output / "parallel_coordinates.png"}
    evaluate = ["sceneparse", "evaluate", str(plan.folder(best.trial))] if best else []
    print_summary("sweep", lines, evaluate)
    return rows
