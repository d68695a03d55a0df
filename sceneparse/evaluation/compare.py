"""Compare two evaluations, paired over their images."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sceneparse.errors import InputError, first_few
from sceneparse.evaluation.compare_page import image_values
from sceneparse.evaluation.result import COUNTS_FILE, Stored
from sceneparse.metrics.confusion import TRUTH
from sceneparse.metrics.intervals import Interval, compare_paired, few_images_note
from sceneparse.metrics.significance import LEVEL
from sceneparse.report.pages import figure_uri, write_page
from sceneparse.report.plots import draw_interval, named_lines, save_plot
from sceneparse.report.tables import Table, four_digits, plain, points, span, write_csv, write_json


class ScorePair(NamedTuple):
    """A score of A, the same score of B, and the difference B - A with its interval and test."""

    name: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    separated: bool

    @property
    def interval(self) -> Interval:
        """The interval of the difference."""
        return Interval(self.low, self.high)


@dataclass(frozen=True)
class Comparison:
    """B against A on the same images: mean IoU, and the IoU per class."""

    first: Stored
    second: Stored
    overall: ScorePair
    classes: list[ScorePair]
    resamples: int


def compare(first: Stored, second: Stored, resamples: int) -> Comparison:
    """Compare two evaluations; raises InputError unless their images and truth are the same."""
    require_same_images(first, second)
    needed = math.ceil(len(first.classes) / (1 - LEVEL))
    if resamples < needed:
        raise InputError(
            f"with {len(first.classes)} classes --bootstrap must be at least {needed}, or none "
            f"could be separated; got {resamples}"
        )
    overall, classes = compare_paired(first.by_image, second.by_image, resamples, first.rule)
    names = ["mean IoU", *first.classes]
    scores = ([side.mean_iou, *side.class_ious] for side in (first, second))
    mean, *pairs = (
        ScorePair(name, a, b, d.value, d.interval.low, d.interval.high, d.p_value, d.separated)
        for name, a, b, d in zip(names, *scores, [overall, *classes], strict=True)
    )
    return Comparison(first, second, mean, pairs, resamples)


def require_same_images(first: Stored, second: Stored) -> None:
    """Raise InputError unless classes, images, truth and the way of counting are the same."""
    if first.excluded != second.excluded:
        without = (
            f"{side.folder} excludes {first_few(side.excluded) or 'no class'}"
            for side in (first, second)
        )
        raise InputError(f"{', '.join(without)}; evaluate both with the same --exclude")
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
    mean, images = comparison.overall, len(comparison.first.images)
    head = (
        f"A {mean.a:.4f}, B {mean.b:.4f}: a difference of {points(mean.difference)} points of mean "
        f"IoU (95% interval {span(mean.interval)}, p = {mean.p_value:.2g})"
    )
    counted = f"these {images} images" if images > 1 else "this image"
    better = "B is better than A" if mean.difference > 0 else "A is better than B"
    lines = [f"Separated: {better}. {head}."]
    if not mean.separated:
        lines = [f"Not separated: {head}, which the choice of {counted} can explain."]
    separated = [
        f"{pair.name} ({points(pair.difference)})" for pair in comparison.classes if pair.separated
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
        f"Intervals by the paired jackknife over {counted}, p by a paired permutation test "
        f"with {comparison.resamples} permutations. They hold for other images, not for other "
        "seeds: train several runs for that."
    )
    if note := few_images_note(images):
        lines.append(f"{note[0].upper()}{note[1:]}.")
    return "\n".join(lines)


def text(comparison: Comparison) -> str:
    """Format which is A and which is B, a row per class and for the mean, and the verdict."""
    sides = {"A": comparison.first, "B": comparison.second}
    folders = "\n".join(f"{name:<12} {_with_others(side.folder)}" for name, side in sides.items())
    return "\n\n".join([folders, class_table(comparison).as_text(), verdict(comparison)])


def class_table(comparison: Comparison) -> Table:
    """Lay out both scores, their difference and its test, per class and for the mean."""
    heads = ["class", "A", "B", "B - A", "95% interval", "p", ""]
    rows = [
        [
            pair.name,
            four_digits(pair.a),
            four_digits(pair.b),
            "-" if math.isnan(pair.difference) else points(pair.difference),
            span(pair.interval),
            four_digits(pair.p_value),
            "-" if math.isnan(pair.p_value) else "separated" if pair.separated else "not separated",
        ]
        for pair in [*comparison.classes, comparison.overall]
    ]
    return Table("Per-class IoU", heads, rows)


def _with_others(folder: Path) -> str:
    """Return a folder of scores, with the names of the other evaluations of its run."""
    others = [path.parent.name for path in sorted(folder.parent.glob(f"eval_*/{COUNTS_FILE}"))]
    others = [name for name in others if name != folder.name]
    return f"{folder}{f' (the run also holds {first_few(others)})' if others else ''}"


def write_comparison(folder: Path, comparison: Comparison, palette: str = "dataset") -> None:
    """Write compare.html, compare.json, compare.csv, differences.png and differences.svg.

    `palette`: of the classes in pictures, see LabelTable.with_palette.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [comparison.overall, *comparison.classes]
    rows = [pair._asdict() for pair in pairs]
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
    differences = _draw_differences(pairs)
    save_plot(differences, folder / "differences")
    images = image_values(comparison, palette)
    page = {
        "title": f"{comparison.second.folder} (B) against {comparison.first.folder} (A)",
        "verdicts": verdict(comparison).splitlines(),
        "plots": {"Per-class IoU, differences": figure_uri(differences)},
        "facts": {
            f"{name.upper()}: {key}": value
            for name, of in sides.items()
            for key, value in {"scores": of.folder, "protocol": of.protocol, **of.how}.items()
        },
        **images,
        "tables": [class_table(comparison), *images["tables"]],
    }
    write_page("comparison.html", folder / "compare.html", page)


def _draw_differences(pairs: list[ScorePair]) -> Figure:
    """Draw the difference of each score with its interval, in points."""
    label = "B - A in points of IoU, 95% intervals; grey: not separated"
    figure, axes = named_lines([row.name for row in pairs], (7, 1 + 0.28 * len(pairs)), label)
    for place, pair in enumerate(pairs):
        better = "#3b82c4" if pair.difference > 0 else "#e07b1a"
        ink = better if pair.separated and pair.difference else "#777"
        draw_interval(axes, place, pair.interval, ink, width=2)
        axes.plot(100 * pair.difference, place, marker="o", color=ink)
    axes.axvline(0, color="black", linewidth=0.8)
    return figure
