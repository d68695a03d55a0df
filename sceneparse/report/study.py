"""What a study found: its rows over seeds, and against the reference, over seeds and images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sceneparse.errors import InputError, refusing
from sceneparse.files import LARGEST_DESCRIPTION, read_json
from sceneparse.metrics.bootstrap import Difference, compare_paired
from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH, class_iou, mean_iou
from sceneparse.metrics.significance import MeanDifference, compare_means
from sceneparse.report.costs import draw_front, pareto_front
from sceneparse.report.evaluation import Stored, read_evaluation
from sceneparse.report.layout import Table
from sceneparse.report.plots import add_legend
from sceneparse.report.seeds import Spread, spread_of
from sceneparse.report.tables import plain
from sceneparse.report.words import p_word, points, verdict_word

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Tested:
    """A finished run of a study: its scores, its cost, seconds of training, where that was."""

    row: str
    seed: int
    stored: Stored
    mean_iou: float
    class_ious: dict[str, float]
    seconds: float
    parameters: int
    multiply_adds: int
    made_by: dict[str, str]


@dataclass(frozen=True)
class Row:
    """A row over its seeds: scores, cost, and how it differs from the reference.

    `over_seeds` is Welch's test on mean IoU, `over_images` the paired comparison of the counts of
    all common seeds together; None for the reference itself.
    """

    name: str
    runs: Sequence[Tested]
    scores: Spread
    over_seeds: MeanDifference | None
    over_images: Difference | None
    classes: Sequence[Difference]

    @property
    def minutes(self) -> float:
        """Mean time of training."""
        return float(np.mean([run.seconds for run in self.runs])) / 60


def read_run(row: str, seed: int, scores: Path) -> Tested:
    """Read what a study wrote about a run; raises InputError where it is damaged."""
    stored = read_evaluation(scores)
    sums = stored.by_image.sum(axis=0)
    path = scores / "eval.json"
    written = read_json(path, LARGEST_DESCRIPTION)
    with refusing(path, "not of a study"):
        facts = written["how"]
        costs = [float(facts[key]) for key in ("seconds", "parameters", "multiply_adds")]
        made_by = {key: str(facts[key]) for key in ("commit", "machine", "torch", "date")}
    ious = class_iou(sums[RIGHT], sums[TRUTH], sums[PREDICTED])
    return Tested(
        row=row,
        seed=seed,
        stored=stored,
        mean_iou=float(mean_iou(sums[RIGHT], sums[TRUTH], sums[PREDICTED], stored.rule)),
        class_ious=dict(zip(stored.classes, map(float, ious), strict=True)),
        seconds=costs[0],
        parameters=int(costs[1]),
        multiply_adds=int(costs[2]),
        made_by=made_by,
    )


def rows_of(tested: Sequence[Tested], reference: str) -> list[Row]:
    """Sum up the rows that have finished runs, each against the reference."""
    by_row: dict[str, list[Tested]] = {}
    for run in tested:
        by_row.setdefault(run.row, []).append(run)
    if reference not in by_row:
        raise InputError(f"no run of the reference '{reference}' has finished yet")
    scores = {name: [run.mean_iou for run in runs] for name, runs in by_row.items()}
    # The reference first, so that a difference is what a row gains over it.
    ordered = {reference: scores[reference], **scores}
    seeds = {d.second: d for d in compare_means(ordered) if d.first == reference}
    rows = []
    for name, runs in by_row.items():
        images: Difference | None = None
        classes: Sequence[Difference] = []
        if name != reference:
            images, classes = _over_images(by_row[reference], runs)
        rows.append(Row(name, runs, spread_of(scores[name]), seeds.get(name), images, classes))
    return rows


def _over_images(
    reference: Sequence[Tested], runs: Sequence[Tested]
) -> tuple[Difference | None, Sequence[Difference]]:
    """Compare on the same images, with the counts of all seeds that both have added up."""
    common = {run.seed for run in reference} & {run.seed for run in runs}
    if not common:
        return None, []
    first, second = (
        np.sum([run.stored.by_image for run in side if run.seed in common], axis=0)
        for side in (reference, runs)
    )
    return compare_paired(first, second, _RESAMPLES, runs[0].stored.rule)


def table_of(rows: Sequence[Row], split: str) -> Table:
    """Lay out the rows, for a terminal or a page."""
    heads = [
        "",
        f"{split} mean IoU",
        "95% over seeds",
        "seeds",
        "gain over seeds",
        "gain over images, 95%",
        "p",
        "parameters",
        "GMAC",
        "training",
    ]
    return Table("Study", heads, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    spread, seeds, images = row.scores, row.over_seeds, row.over_images
    interval = "-" if np.isnan(spread.low) else f"{spread.low:.4f} to {spread.high:.4f}"
    gain = "-" if seeds is None else f"{points(seeds.value)}, {verdict_word(seeds)}"
    paired, p_value = "-", "-"
    if images is not None:
        span = f"{points(images.interval.low)} to {points(images.interval.high)}"
        paired, p_value = f"{points(images.value)} ({span})", p_word(images.p_value)
    return [
        row.name,
        f"{spread.mean:.4f}",
        interval,
        str(len(row.runs)),
        gain,
        paired,
        p_value,
        f"{row.runs[0].parameters / 1e6:.2f} M",
        f"{row.runs[0].multiply_adds / 1e9:.2f}",
        f"{row.minutes:.1f} min",
    ]


def write_study(path: Path, tested: Sequence[Tested], split: str) -> None:
    """Write a list with an entry for each run."""
    entries = [
        {
            "config": run.row,
            "seed": run.seed,
            "split": split,
            "mean_iou": plain(run.mean_iou),
            "classes": {name: plain(value) for name, value in run.class_ious.items()},
            "seconds": run.seconds,
            "parameters": run.parameters,
            "multiply_adds": run.multiply_adds,
            **run.made_by,
        }
        for run in tested
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def draw_scores(rows: Sequence[Row], split: str) -> Figure:
    """Draw the mean IoU of every seed, and the mean with its interval, for each row."""
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        spread = row.scores
        if not np.isnan(spread.low):
            span = [100 * spread.low, 100 * spread.high]
            axes.plot(span, [place] * 2, color=f"C{place}", linewidth=6, alpha=0.25)
        values = [100 * value for value in spread.values]
        axes.plot(values, [place] * len(values), "o", color=f"C{place}", markersize=5)
        axes.plot(100 * spread.mean, place, "|", color="black", markersize=16)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(f"{split} mean IoU (%): each seed, mean, 95% interval of the mean")
    axes.grid(axis="x", alpha=0.3)
    return figure


def draw_costs(rows: Sequence[Row], split: str) -> Figure:
    """Draw mean IoU against multiply-adds and parameters; the front is a dashed line."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    kinds = {
        "multiply-adds (G)": [row.runs[0].multiply_adds / 1e9 for row in rows],
        "parameters (M)": [row.runs[0].parameters / 1e6 for row in rows],
    }
    means = [100 * row.scores.mean for row in rows]
    lines = {}
    for axes, (words, costs) in zip(panels, kinds.items(), strict=True):
        front = pareto_front([*zip(costs, means, strict=True)])
        for k, row in enumerate(rows):
            shape = "o" if k in front else "x"
            (lines[row.name],) = axes.plot(costs[k], means[k], shape, color=f"C{k}", markersize=8)
        lines["Pareto front of the means"] = draw_front(axes, costs, means, front)
        axes.set_xlabel(words)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"{split} mean IoU (%), mean over seeds")
    add_legend(figure, lines, loc="outside lower center", ncols=4)
    return figure


def draw_classes(rows: Sequence[Row], reference: str) -> Figure:
    """Draw what each row gains over the reference in every class, with intervals over images."""
    compared = [row for row in rows if row.classes]
    names = rows[0].runs[0].stored.classes
    figure = Figure(figsize=(8, 1.5 + 0.16 * len(names) * (len(compared) + 1)))
    axes = figure.subplots()
    lines = {}
    for k, row in enumerate(compared):
        places = np.arange(len(names)) + (k - (len(compared) - 1) / 2) / (len(compared) + 1)
        color = f"C{[*rows].index(row)}"
        for place, difference in zip(places, row.classes, strict=True):
            span = [100 * difference.interval.low, 100 * difference.interval.high]
            axes.plot(span, [place] * 2, color=color, linewidth=1.5, alpha=0.5)
        values = [100 * difference.value for difference in row.classes]
        (lines[row.name],) = axes.plot(values, places, "o", color=color, markersize=4)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"points of IoU over {reference}, 95% intervals over images")
    axes.grid(axis="x", alpha=0.3)
    add_legend(axes, lines, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
