"""Carry out a study: rows of settings, a run per seed, all tested the same way, with statistics."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser

if TYPE_CHECKING:
    from sceneparse.assembly.study import Study

EXAMPLES = """\
  sceneparse study study/camvid data.root=/data/camvid
  sceneparse study study/camvid model.pretrained=mobilenetv2_100.safetensors
  sceneparse study study/camvid --summary --results results/camvid_study

The YAML names the configuration of the runs, what each row changes, the seeds, the row that the
others are compared with, and the split that the last epoch is tested on. The same command goes on
with what is not finished, in the middle of a run too. Runs go to OUTPUT/ROW/seed-N, and to OUTPUT
study.json, study.md and the pictures study_scores, study_costs and study_classes."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("study", "Compare rows of settings over several seeds.", EXAMPLES)
    result.add_argument("study", metavar="YAML", help="file or recipe: what is compared")
    result.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="changed settings of all runs"
    )
    result.add_argument(
        "--summary", action="store_true", help="train nothing; sum up what is finished"
    )
    result.add_argument(
        "--results", metavar="NAME", help="write NAME.json, NAME.md, NAME_scores.png, ... instead"
    )
    return result


def main(options: argparse.Namespace) -> None:
    """Check all settings, carry out what is left, sum up after every run."""
    from sceneparse.assembly.study import carry_out, check_runs, read_study
    from sceneparse.config.recipes import find_config
    from sceneparse.runtime.distributed import join_processes

    study = read_study(find_config(options.study), options.overrides)
    if not options.summary:
        check_runs(study)
    if options.summary or all(run.tested for run in study.runs):
        show(study, options.results)
        return
    with join_processes() as process:
        for finished in carry_out(study, process):
            print(f"{finished.row}, seed {finished.config.seed}, is finished")
            show(study, options.results)


def show(study: Study, results: str | None) -> None:
    """Print the table of what is finished and write the files."""
    from sceneparse.errors import InputError
    from sceneparse.report.plots import save_plot
    from sceneparse.report.study import (
        draw_classes,
        draw_costs,
        draw_scores,
        read_run,
        rows_of,
        table_of,
        write_study,
    )

    tested = [read_run(r.row, r.config.seed, r.scores) for r in study.runs if r.tested]
    if not tested:
        raise InputError(f"'{study.output}' holds no finished run yet")
    split, reference = study.config.split, study.config.reference
    rows = rows_of(tested, reference)
    table = table_of(rows, split)
    print(f"\n{table.as_text()}\n\n{len(tested)} of {len(study.runs)} runs are finished")
    name = Path(results or study.output / "study")
    try:
        write_study(name.with_name(f"{name.name}.json"), tested, split)
        name.with_name(f"{name.name}.md").write_text(table.as_markdown() + "\n", encoding="utf-8")
        for kind, figure in {
            "scores": draw_scores(rows, split),
            "costs": draw_costs(rows, split),
            "classes": draw_classes(rows, reference),
        }.items():
            save_plot(figure, name.with_name(f"{name.name}_{kind}"))
    except OSError as error:
        raise InputError(f"cannot write results: {error}") from error
    print(f"results      {name}.json, .md, _scores.png, _costs.png, _classes.png")
