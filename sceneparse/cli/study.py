"""Run a study: rows of settings, a run per seed, all tested the same way, with statistics."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser, writing
from sceneparse.cli.options import add_licences, add_option, add_quiet
from sceneparse.cli.output import print_summary

if TYPE_CHECKING:
    from sceneparse.studies.segmentation import Study

EXAMPLES = """\
  sceneparse study study/camvid data.root=/data/camvid
  sceneparse study study/camvid model.pretrained=mobilenetv2_100.safetensors
  sceneparse study study/camvid --summary --results results/camvid_study

The YAML names the configuration of the runs, what each row changes, the seeds, the row that the
others are compared with, and the split that the last epoch is tested on. The same command resumes
an interrupted study, in the middle of a run too. Runs go to OUTPUT/ROW/seed-N; OUTPUT gets
study.html, study.json, study.md and the pictures study_scores, study_costs and study_classes."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("study", "Compare rows of settings over several seeds.", EXAMPLES)
    result.add_argument("study", metavar="YAML", help="study: a file, or the name of a recipe")
    result.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="other settings for all runs"
    )
    add_option(result, "--summary", "train nothing; summarize the finished runs")
    add_option(result, "--results NAME", "write NAME.json, NAME.md, NAME_scores.png, ... instead")
    add_licences(result)
    add_quiet(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Check all settings, train and test the unfinished runs, summarize after each."""
    from sceneparse.config.recipes import find_config
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.studies.segmentation import carry_out, check_runs, read_study

    study = read_study(find_config(options.study), options.overrides)
    if not options.summary:
        check_runs(study, options.licences)
    if options.summary or all(run.tested for run in study.runs):
        rows = show(study, options.results)
    else:
        with join_processes(study.runs[0].config.train.device) as process:
            for finished in carry_out(study, process, options.licences):
                rows = show(study, options.results)
                print(f"{finished.row}, seed {finished.config.seed}: {rows['finished']}")
    print_summary("study", rows, ["sceneparse", "compare", str(study.output)])


def show(study: Study, results: str | None) -> dict[str, object]:
    """Print the table of the finished runs, write the files, and return the rows of a summary."""
    from sceneparse.errors import InputError
    from sceneparse.evaluation.result import read_evaluation
    from sceneparse.studies.rows import read_run, rows_of, table_of, write_entries, write_rows

    tested = [
        read_run(run.row, run.config.seed, read_evaluation(run.scores))
        for run in study.runs
        if run.tested
    ]
    if not tested:
        raise InputError(f"'{study.output}' holds no finished run yet")
    split, reference = study.config.split, study.config.reference
    rows = rows_of(tested, reference)
    print(f"\n{table_of(rows, split).as_text()}\n")
    own = study.output / "study"
    name = Path(results) if results else own
    with writing(name):
        if name != own:
            write_entries(own, tested, split)  # by which `sceneparse compare` recognises a study
        write_rows(name, tested, rows, reference, split)
    files = {"report": ".html", "table": ".md", "values": ".json", "plot": "_scores.png"}
    return {
        "finished": f"{len(tested)} of {len(study.runs)} runs are finished",
        **{kind: name.with_name(name.name + suffix) for kind, suffix in files.items()},
    }
