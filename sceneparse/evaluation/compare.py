"""Compare two evaluations, paired over their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sceneparse.errors import InputError, first_few
from sceneparse.evaluation.result import COUNTS_FILE, Stored
from sceneparse.metrics.confusion import TRUTH
from sceneparse.metrics.intervals import Difference, compare_paired, resamples_needed
from sceneparse.report.plots import draw_interval, named_lines, save_plot
from sceneparse.report.tables import Table, plain, points, span, write_csv, write_json


class ScorePair(NamedTuple):
    """A score of A, the same score of B, and the difference B - A."""

    name: str
    a: float
    b: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """B against A on the same images: mean IoU, and the IoU per class."""

    first: Stored
    second: Stored
    overall: ScorePair
    classes: list[ScorePair]
    resamples: int


def find_scores(folder: Path, split: str | None) -> Path:
    """Return the folder of scores that a run has, or that the folder is.

    Raises InputError if there is none, or several and no split.
    """
    if (folder / COUNTS_FILE).is_file():
        return folder
    if split is not None:
        return folder / f"eval_{Path(split).stem}"
    found = sorted(path.parent for path in folder.glob(f"eval_*/{COUNTS_FILE}"))
    if not found:
        raise InputError(
            f"'{folder}' holds no evaluation; run `sceneparse evaluate {folder}` first"
        )
    if len(found) > 1:
        names = first_few(path.name for path in found)
        raise InputError(f"'{folder}' holds several evaluations ({names}); choose with --split")
    return found[0]


def compare(first: Stored, second: Stored, resamples: int) -> Comparison:
    """Compare two evaluations; raises InputError unless their images and truth are the same."""
    require_same_images(first, second)
    needed = resamples_needed(len(first.classes))
    if resamples < needed:
        raise InputError(
            f"with {len(first.classes)} classes --bootstrap must be at least {needed}, or none "
            f"could be separated; got {resamples}"
        )
    overall, classes = compare_paired(first.by_image, second.by_image, resamples, first.rule)
    rows = zip(first.classes, first.class_ious, second.class_ious, classes, strict=True)
    means = ScorePair("mean IoU", first.mean_iou, second.mean_iou, overall)
    return Comparison(first, second, means, [ScorePair(*row) for row in rows], resamples)


def require_same_images(first: Stored, second: Stored) -> None:
    """Raise InputError unless classes, images, truth and the rule of counting are the same."""
    if first.classes != second.classes:
        raise InputError(
            f"{first.folder} and {second.folder} have different classes: "
            f"{first_few(first.classes)}; {first_few(second.classes)}"
        )
    if first.images != second.images:
        raise InputError(
            f"{first.folder} has {len(first.images)} images, {second.folder} "
            f"{len(second.images)}, and they must be the same; evaluate both on one split"
        )
    different = np.flatnonzero((first.by_image[:, TRUTH] != second.by_image[:, TRUTH]).any(axis=1))
    if len(different):
        names = first_few(first.images[index] for index in different)
        raise InputError(f"the masks of {len(different)} images differ between the two: {names}")
    if first.rule != second.rule:
        raise InputError(
            f"one counts absent classes by {first.rule}, the other by {second.rule}; evaluate "
            "both with the same --rule"
        )


def verdict(comparison: Comparison) -> str:
    """Describe what the comparison shows, and what it cannot show."""
    _, a, b, found = comparison.overall
    images = len(comparison.first.images)
    head = (
        f"A {a:.4f}, B {b:.4f}: a difference of {points(found.value)} points of mean IoU "
        f"(95% interval {span(found.interval)}, p = {found.p_value:.2g})"
    )
    better = "B is better than A" if found.value > 0 else "A is better than B"
    lines = [f"Separated: {better}. {head}."]
    if not found.separated:
        lines = [f"Not separated: {head}, which the choice of these {images} images can explain."]
    separated = [
        f"{row.name} ({points(row.difference.value)})"
        for row in comparison.classes
        if row.difference.separated
    ]
    lines.append(
        f"Classes separated after Holm's correction for {len(comparison.classes)}: "
        f"{', '.join(separated) or 'none'}."
    )
    if comparison.first.protocol != comparison.second.protocol:
        lines.append(
            f"The protocols differ: A by {comparison.first.protocol}; "
            f"B by {comparison.second.protocol}."
        )
    lines.append(
        f"Intervals by paired bootstrap, p by paired permutation test, {comparison.resamples} "
        f"resamples of {images} images. They hold for other images, not for other seeds: train "
        "several runs for that."
    )
    return "\n".join(lines)


def text(comparison: Comparison) -> str:
    """Format which is A and which is B, a row per class and for the mean, and the verdict."""
    heads = ["class", "A", "B", "B - A", "95% interval", "p", ""]
    rows = [
        [
            name,
            f"{a:.4f}",
            f"{b:.4f}",
            points(found.value),
            span(found.interval),
            f"{found.p_value:.4f}",
            "separated" if found.separated else "not separated",
        ]
        for name, a, b, found in [*comparison.classes, comparison.overall]
    ]
    folders = f"A            {comparison.first.folder}\nB            {comparison.second.folder}"
    return "\n\n".join([folders, Table("Classes", heads, rows).as_text(), verdict(comparison)])


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write compare.json, compare.csv, differences.png and differences.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [comparison.overall, *comparison.classes]
    rows = [
        {
            "name": name,
            "a": a,
            "b": b,
            "difference": found.value,
            "low": found.interval.low,
            "high": found.interval.high,
            "p_value": found.p_value,
            "separated": found.separated,
        }
        for name, a, b, found in pairs
    ]
    sides = {"a": comparison.first, "b": comparison.second}
    result = {
        **{k: {"folder": str(of.folder), "protocol": of.protocol} for k, of in sides.items()},
        "images": len(comparison.first.images),
        "resamples": comparison.resamples,
        "verdict": verdict(comparison),
        "rows": rows,
    }
    write_json(folder / "compare.json", result)
    write_csv(folder / "compare.csv", plain(rows))
    save_plot(_draw_differences(pairs), folder / "differences")


def _draw_differences(pairs: list[ScorePair]) -> Figure:
    """Draw the difference of each score with its interval, in points."""
    label = "B - A in points of IoU, 95% intervals; grey: not separated"
    figure, axes = named_lines([row.name for row in pairs], (7, 1 + 0.28 * len(pairs)), label)
    for place, (*_, difference) in enumerate(pairs):
        better = "#2a7a3a" if difference.value > 0 else "#b53a3a"
        ink = better if difference.separated and difference.value else "#777"
        draw_interval(axes, place, difference.interval, ink, width=2)
        axes.plot(100 * difference.value, place, marker="o", color=ink)
    axes.axvline(0, color="black", linewidth=0.8)
    return figure
