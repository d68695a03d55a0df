"""Rows of segmentation runs: scores over seeds, and gains over one row by seeds and by images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sceneparse.errors import InputError, refusing
from sceneparse.evaluation.result import Stored
from sceneparse.metrics.intervals import Difference, Interval, compare_paired
from sceneparse.metrics.significance import MeanDifference, compare_means
from sceneparse.report.pages import figure_uri, write_page
from sceneparse.report.plots import add_legend, draw_interval, named_lines, save_plot
from sceneparse.report.tables import Table, p_word, points, span, verdict_word, write_json
from sceneparse.studies.costs import Costs, draw_trade_offs
from sceneparse.studies.seeds import Spread, spread_of

_RESAMPLES = 10_000
# Headings of the plots on the page.
_TITLES = {
    "scores": "Mean IoU over seeds",
    "costs": "Mean IoU against cost",
    "classes": "Per-class IoU, differences",
}


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its row and seed, its scores, and what a study wrote beside them.

    `costs`: seconds of training, parameters and multiply-adds, empty if they were not counted.
    `seed`: None for a run that is compared alone.
    """

    row: str
    seed: int | None
    scores: Stored
    costs: Costs
    made_by: Mapping[str, str]


@dataclass(frozen=True)
class StudyRow:
    """A row over its seeds: scores, and the gain over the reference.

    `over_seeds`: Welch's test on mean IoU; `over_images`: paired comparison of the summed counts of
    all common seeds. Both are None for the reference itself.
    """

    name: str
    runs: Sequence[FinishedRun]
    spread: Spread
    over_seeds: MeanDifference | None
    over_images: Difference | None
    classes: Sequence[Difference]

    def cost(self, key: str) -> float:
        """Return the mean of a cost over the runs; NaN if it was not counted."""
        return float(np.mean([run.costs.get(key, np.nan) for run in self.runs]))


def read_run(row: str, seed: int | None, stored: Stored) -> FinishedRun:
    """Read what a study wrote beside the scores of a run; raises InputError if it is damaged."""
    if "seconds" not in stored.how:
        return FinishedRun(row, seed, stored, {}, {})
    with refusing(stored.folder / "eval.json", "not of a study"):
        costs: dict[str, float] = {"seconds": float(stored.how["seconds"])}
        costs |= {key: int(stored.how[key]) for key in ("parameters", "multiply_adds")}
        made_by = {key: str(stored.how[key]) for key in ("commit", "machine", "torch", "date")}
    return FinishedRun(row, seed, stored, costs, made_by)


def rows_of(tested: Sequence[FinishedRun], reference: str) -> list[StudyRow]:
    """Compare rows with the reference; raises InputError if no run of it has finished."""
    names = dict.fromkeys(run.row for run in tested)
    by_row = {name: [run for run in tested if run.row == name] for name in names}
    if reference not in by_row:
        raise InputError(f"no run of the reference '{reference}' has finished yet")
    scores = {name: [run.scores.mean_iou for run in runs] for name, runs in by_row.items()}
    # The reference first, so that a difference is what a row gains over it.
    ordered = {reference: scores[reference], **scores}
    seeds = {d.second: d for d in compare_means(ordered) if d.first == reference}
    rows = []
    for name, runs in by_row.items():
        images, classes = _over_images(by_row[reference], runs)
        rows.append(StudyRow(name, runs, spread_of(scores[name]), seeds.get(name), images, classes))
    return rows


def _over_images(
    reference: Sequence[FinishedRun], runs: Sequence[FinishedRun]
) -> tuple[Difference | None, Sequence[Difference]]:
    """Compare on the same images by the summed counts of all seeds that both have."""
    common = {run.seed for run in reference} & {run.seed for run in runs}
    if runs is reference or not common:
        return None, []
    first, second = (
        np.sum([run.scores.by_image for run in side if run.seed in common], axis=0)
        for side in (reference, runs)
    )
    return compare_paired(first, second, _RESAMPLES, runs[0].scores.rule)


def table_of(rows: Sequence[StudyRow], split: str) -> Table:
    """Lay out the rows, for a terminal or a page."""
    heads = ["", f"{split} mean IoU", "95% over seeds", "seeds", "gain over seeds"]
    heads += ["gain over images, 95%", "p", "parameters", "GMAC", "training"]
    return Table("Study", heads, [_cells(row) for row in rows])


def _cells(row: StudyRow) -> list[str]:
    seeds, images = row.over_seeds, row.over_images
    mean, _, interval = row.spread.cells("{:.4f}".format)
    cells = [row.name, mean, interval, str(len(row.runs))]
    cells.append(f"{points(seeds.value)}, {verdict_word(seeds)}" if seeds else "-")
    gain = f"{points(images.value)} ({span(images.interval)})" if images else "-"
    cells += [gain, p_word(images.p_value) if images else "-"]
    units = {"parameters": (1e6, "{:.2f} M"), "multiply_adds": (1e9, "{:.2f}")}
    for key, (unit, form) in {**units, "seconds": (60, "{:.1f} min")}.items():
        cost = row.cost(key) / unit
        cells.append("-" if np.isnan(cost) else form.format(cost))
    return cells


def write_entries(path: Path, tested: Sequence[FinishedRun], split: str) -> None:
    """Write PATH.json, an entry for each run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = [
        {
            "config": run.row,
            "seed": run.seed,
            "split": split,
            "mean_iou": run.scores.mean_iou,
            "classes": dict(zip(run.scores.classes, run.scores.class_ious, strict=True)),
            **run.costs,
            **run.made_by,
        }
        for run in tested
    ]
    write_json(path.with_name(f"{path.name}.json"), entries)


def write_rows(
    path: Path, tested: Sequence[FinishedRun], rows: Sequence[StudyRow], reference: str, split: str
) -> None:
    """Write PATH.json as `write_entries` does, PATH.md, PATH.html and the pictures."""
    write_entries(path, tested, split)
    table = table_of(rows, split)
    markdown = table.as_markdown() + "\n"
    path.with_name(f"{path.name}.md").write_text(markdown, encoding="utf-8")
    figures = {"scores": draw_scores(rows, split)}
    if all(run.costs for run in tested):
        keys = ("multiply_adds", "parameters")
        costs = {row.name: {key: row.cost(key) for key in keys} for row in rows}
        spreads, label = {row.name: row.spread for row in rows}, f"{split} mean IoU (%)"
        figures["costs"] = draw_trade_offs(spreads, costs, label, with_intervals=False)
    figures["classes"] = draw_classes(rows, reference)
    for kind, figure in figures.items():
        save_plot(figure, path.with_name(f"{path.name}_{kind}"))
    page = {
        "title": f"{path.name}: {len(rows)} rows on {split}",
        "verdicts": verdicts(rows, reference),
        "notes": [],
        "tables": [table],
        "plots": {_TITLES[kind]: figure_uri(figure) for kind, figure in figures.items()},
        "facts": {"runs": ", ".join(str(run.scores.folder) for run in tested), **_how(tested)},
    }
    write_page("comparison.html", path.with_name(f"{path.name}.html"), page)


def verdicts(rows: Sequence[StudyRow], reference: str) -> list[str]:
    """Describe the best row, and what each row gains over the reference by seeds and by images."""
    best = max(rows, key=lambda row: row.spread.mean)
    lines = [f"Highest mean IoU: {best.name}, {best.spread.mean:.4f}."]
    for row in rows:
        if row.over_seeds is None:
            continue
        parts = [f"by seeds {points(row.over_seeds.value)} points, {verdict_word(row.over_seeds)}"]
        if images := row.over_images:
            parts.append(f"by images {points(images.value)} ({span(images.interval)})")
        lines.append(f"{row.name} against {reference}: {'; '.join(parts)}.")
    return lines


def _how(tested: Sequence[FinishedRun]) -> dict[str, str]:
    """Return how the runs were tested and what made them, by heading; values that differ joined."""
    each = [{"protocol": run.scores.protocol, **run.made_by} for run in tested]
    keys = dict.fromkeys(key for values in each for key in values)
    return {key: "; ".join(dict.fromkeys(v[key] for v in each if key in v)) for key in keys}


def draw_scores(rows: Sequence[StudyRow], split: str) -> Figure:
    """Draw the mean IoU of every seed, and the mean with its interval, for each row."""
    label = f"{split} mean IoU (%): each seed, mean, 95% interval of the mean"
    size, names = (7, 1.2 + 0.45 * len(rows)), [row.name for row in rows]
    figure, axes = named_lines(names, size, label, layout="constrained")
    for place, row in enumerate(rows):
        spread, ink = row.spread, f"C{place}"
        if not np.isnan(spread.low):
            draw_interval(axes, place, Interval(spread.low, spread.high), ink, width=6, alpha=0.25)
        values = [100 * value for value in spread.values]
        axes.plot(values, [place] * len(values), "o", color=ink, markersize=5)
        axes.plot(100 * spread.mean, place, "|", color="black", markersize=16)
    return figure


def draw_classes(rows: Sequence[StudyRow], reference: str) -> Figure:
    """Draw what each row gains over the reference in every class, with intervals over images."""
    compared = [row for row in rows if row.classes]
    names = rows[0].runs[0].scores.classes
    size = (8, 1.5 + 0.16 * len(names) * (len(compared) + 1))
    label = f"points of IoU over {reference}, 95% intervals over images"
    figure, axes = named_lines(names, size, label)
    lines = {}
    for k, row in enumerate(compared):
        places = np.arange(len(names)) + (k - (len(compared) - 1) / 2) / (len(compared) + 1)
        color = f"C{[*rows].index(row)}"
        for place, difference in zip(places, row.classes, strict=True):
            draw_interval(axes, place, difference.interval, color, width=1.5, alpha=0.5)
        values = [100 * difference.value for difference in row.classes]
        (lines[row.name],) = axes.plot(values, places, "o", color=color, markersize=4)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_ylim(len(names) - 0.5, -0.5)
    add_legend(axes, lines, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
