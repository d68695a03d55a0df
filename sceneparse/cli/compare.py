"""Compare classifiers, or evaluations of segmentation models: intervals, tests, costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.cli.command import OTHER_OUTPUT, command_parser, create_output, writing
from sceneparse.cli.options import add_option, add_palette, add_quiet, changed, number
from sceneparse.cli.output import print_summary
from sceneparse.errors import InputError

if TYPE_CHECKING:
    from sceneparse.studies.classifiers import Comparison
    from sceneparse.studies.costs import Costs

EXAMPLES = """\
  sceneparse compare runs/none runs/strip_pooling runs/eca
  sceneparse compare runs/cifar10/* --output results/cifar10
  sceneparse compare runs/none runs/strip_pooling --counted
  sceneparse compare runs/fcn runs/mpm --split val
  sceneparse compare runs/study_camvid

Each RUN is one of: an output folder of `sceneparse classify` with its seeds; a segmentation run
(its eval_SPLIT); a folder of scores; a study or one of its rows. Unfinished seeds are skipped and
listed.
Classifiers: OUTPUT gets compare.html (one file that works offline), compare.json, and the plots as
PNG and SVG. Costs are measured on this machine, in the precision that
`train.amp=auto` chooses here.
Segmentation: two runs are compared class by class as by `sceneparse evaluate --compare`: OUTPUT
gets compare.html, compare.json, compare.csv and differences.png. The page shows the images that
gain and lose most, by predictions of `sceneparse evaluate --save index` or by the networks. Several
runs, or rows with seeds, are compared with the first one: OUTPUT gets compare.html, compare.json,
compare.md and plots."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser(
        "compare", "Compare trained classifiers or evaluations: scores, tests, costs.", EXAMPLES
    )
    result.add_argument("runs", nargs="+", metavar="RUN", help="runs to compare")
    folder = "folder for the results; default runs/compare_cls, runs/compare_eval"
    counted = "classifiers: count parameters, multiply-adds and kept bytes; measure nothing"
    batch = "classifiers: batch size of measurements; default: as trained"
    add_option(result, "--output FOLDER", folder)
    add_option(result, "--counted", counted)
    add_option(result, "--batch N", batch, type=number(int, 2))
    add_option(result, "--split NAME", "segmentation: split to compare, if a run has several")
    add_palette(result)
    add_quiet(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Recognise the runs and compare them."""
    from sceneparse.studies.compare import CLASSIFIERS, OUTPUTS, recognise

    given = Path(options.output) if options.output else None
    kind, paths, skipped = recognise([Path(run) for run in options.runs], given)
    useless = ["split", "palette"] if kind == CLASSIFIERS else ["counted", "batch"]
    if found := changed(options, parser(), useless):
        raise InputError(f"{found[0]} changes nothing for {kind}; remove it")
    for path in skipped:
        print(f"{path} holds results of a comparison and is skipped")
    output = given or OUTPUTS[kind]
    work = compare_classifiers if kind == CLASSIFIERS else compare_evaluations
    with writing(output, OTHER_OUTPUT):
        work(options, paths, output)


def compare_classifiers(options: argparse.Namespace, paths: list[Path], output: Path) -> None:
    """Read and compare the runs, measure their costs, print and write the results."""
    from sceneparse.studies import classifiers

    comparison = classifiers.compare_groups([classifiers.read_group(path) for path in paths])
    create_output(output)  # before minutes of measurements
    costs, facts = find_costs(options, comparison)
    facts["runs"] = ", ".join(map(str, paths))
    for table in classifiers.tables_of(comparison, costs):
        print(f"\n{table.title}\n{table.as_text()}")
    print("\n" + "\n".join([*classifiers.verdicts(comparison), *comparison.notes]))
    classifiers.write_comparison(output, comparison, costs, facts)
    rows = {
        "compared": f"{len(comparison.groups)} networks",
        "report": output / "compare.html",
        "values": output / "compare.json",
        "plot": output / "accuracy_against_cost.png",
    }
    print_summary("compare", rows)


def compare_evaluations(options: argparse.Namespace, paths: list[Path], output: Path) -> None:
    """Compare two evaluations class by class, or several, or rows of seeds, with the first."""
    from sceneparse.evaluation.compare import compare, text, verdict, write_comparison
    from sceneparse.studies.compare import read_runs
    from sceneparse.studies.rows import rows_of, table_of, write_rows

    if len(paths) < 2:
        raise InputError(f"'{paths[0]}' has nothing to be compared with; give two runs or more")
    runs, notes = read_runs(paths, options.split)
    first = runs[0]
    if len(runs) == 2 and first.seed is None:
        comparison = compare(first.scores, runs[1].scores, 10_000)
        print(text(comparison))
        write_comparison(output, comparison, options.palette)
        summarise(verdict(comparison).splitlines()[0], output / "compare", "differences.png")
        return
    if options.palette != "dataset":
        raise InputError("--palette is for the pictures of two compared runs; omit it")
    split = options.split or first.scores.folder.name.removeprefix("eval_")
    rows = rows_of(runs, first.row)
    print("\n".join([table_of(rows, split).as_text(), *notes]))
    write_rows(output / "compare", runs, rows, first.row, split)
    summarise(f"{len(rows)} rows of {len(runs)} runs", output / "compare", "compare_scores.png")


def summarise(result: str, name: Path, plot: str) -> None:
    """Print what was found, and the files that begin with a name."""
    files = {"report": name.with_suffix(".html"), "values": name.with_suffix(".json")}
    print_summary("compare", {"compared": result, **files, "plot": name.with_name(plot)})


def find_costs(
    options: argparse.Namespace, comparison: Comparison
) -> tuple[Mapping[str, Costs], dict[str, str]]:
    """Count the costs of each network, and measure them unless --counted; return facts on how."""
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.runtime.precision import Compute, choose_dtype
    from sceneparse.runtime.versions import describe_device, version_rows
    from sceneparse.studies.costs import count_costs, measure_costs

    models = {name: group.meta["model"] for name, group in comparison.groups.items()}
    first = next(iter(comparison.groups.values()))
    size = first.settings["data.size"] if first.settings["data.dataset"] == "folder" else 32
    costs = {name: count_costs(arguments, size) for name, arguments in models.items()}
    facts = version_rows()
    if options.counted:
        return costs, facts
    batch = options.batch or first.settings["train.batch_size"]
    with join_processes() as process:
        dtype = choose_dtype("auto", process.device)
        compute = Compute(process.device, dtype, first.settings["train.channels_last"])
        measured = measure_costs(models, size, batch, compute)
    facts["costs measured"] = (
        f"batches of {batch} images of {size}x{size}, {compute.name}, "
        f"on {describe_device(compute.device)}"
    )
    return {name: costs[name] | measured[name] for name in costs}, facts
