"""Compare classifiers trained by `sceneparse classify`: accuracy with intervals, tests, costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.cli.command import command_parser

if TYPE_CHECKING:
    from sceneparse.report.classifiers import Comparison
    from sceneparse.report.costs import Costs

EXAMPLES = """\
  sceneparse compare runs/none runs/strip_pooling runs/eca
  sceneparse compare runs/cifar10/* --output results/cifar10
  sceneparse compare runs/none runs/strip_pooling --counted

Each RUN is an output folder of `sceneparse classify` with its seeds. Seeds that are not finished
are left out, and said. Costs are measured on this machine, in the precision it would train in.
OUTPUT gets compare.html (one file that works offline), compare.md, compare.json, groups.csv,
pairs.csv, and the plots as PNG and SVG."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser(
        "compare", "Compare trained classifiers: accuracy, tests, costs.", EXAMPLES
    )
    result.add_argument(
        "runs", nargs="+", metavar="RUN", help="output folder of `sceneparse classify`"
    )
    result.add_argument(
        "--output", default="runs/compare_cls", metavar="FOLDER", help="where results go"
    )
    result.add_argument(
        "--counted",
        action="store_true",
        help="count parameters, multiply-adds and kept bytes only; measure no memory and speed",
    )
    result.add_argument(
        "--batch", type=int, metavar="N", help="images at once in measurements; default: as trained"
    )
    return result


def main(options: argparse.Namespace) -> None:
    """Read the runs, compare, measure costs, write everything."""
    from sceneparse.errors import InputError
    from sceneparse.report.classifier_page import tables_of, write_comparison
    from sceneparse.report.classifier_tables import verdicts
    from sceneparse.report.classifiers import compare_groups, read_group

    if options.batch is not None and options.batch < 2:
        raise InputError(f"--batch must be at least 2, got {options.batch}")
    comparison = compare_groups([read_group(Path(run)) for run in options.runs])
    output = Path(options.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write results to '{output}': {error.strerror}") from error
    costs, facts = find_costs(options, comparison)
    for table in tables_of(comparison, costs):
        print(f"\n{table.title}\n{table.as_text()}")
    print("\n" + "\n".join([*verdicts(comparison), *comparison.notes]))
    try:
        write_comparison(output, comparison, costs, facts)
    except OSError as error:
        raise InputError(f"cannot write results to '{output}': {error}") from error
    print(f"\npage         {output / 'compare.html'}")
    print(f"tables       {output / 'compare.md'}, compare.json, groups.csv, pairs.csv")
    print(f"plots        {output / 'curves.png'}, {output / 'accuracy_against_cost.png'}")


def find_costs(
    options: argparse.Namespace, comparison: Comparison
) -> tuple[Mapping[str, Costs], dict[str, str]]:
    """Count and, where asked for, measure what each net costs; say how."""
    from sceneparse.benchmark.classifiers import count_costs, measure_costs
    from sceneparse.runtime.distributed import join_processes
    from sceneparse.runtime.precision import Compute, choose_dtype
    from sceneparse.runtime.versions import describe_device, version_rows

    models = {name: group.meta["model"] for name, group in comparison.groups.items()}
    first = next(iter(comparison.groups.values()))
    size = first.settings["data.size"] if first.settings["data.dataset"] == "folder" else 32
    costs = {name: count_costs(arguments, size) for name, arguments in models.items()}
    facts = {"runs": ", ".join(options.runs), **version_rows()}
    if options.counted:
        return costs, facts
    batch = options.batch or first.settings["train.batch_size"]
    with join_processes() as process:
        dtype = choose_dtype("auto", process.device)
        compute = Compute(process.device, dtype, first.settings["train.channels_last"])
        measured = measure_costs(models, size, batch, compute, say=print)
    facts["costs measured"] = (
        f"batches of {batch} images of {size}x{size}, {compute.name}, "
        f"on {describe_device(compute.device)}"
    )
    for name, numbers in measured.items():
        costs[name].update(numbers)
    return costs, facts
