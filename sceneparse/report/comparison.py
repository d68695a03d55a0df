"""Is one model better than another? A paired comparison in plain words, a table and a plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sceneparse.errors import InputError, first_few
from sceneparse.metrics.bootstrap import Difference, compare_paired, resamples_needed
from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH, class_iou, mean_iou
from sceneparse.report.evaluation import Stored
from sceneparse.report.layout import write_csv
from sceneparse.report.tables import plain
from sceneparse.report.words import points


@dataclass(frozen=True)
class Comparison:
    """B against A on the same images: scores of both, differences overall and per class."""

    first: Stored
    second: Stored
    mean_ious: tuple[float, float]
    class_ious: list[tuple[float, float]]
    overall: Difference
    classes: list[Difference]
    resamples: int


def compare(first: Stored, second: Stored, resamples: int) -> Comparison:
    """Compare two evaluations; raises InputError unless they are of the same images and truth."""
    _refuse_different_data(first, second)
    if resamples < resamples_needed(len(first.classes)):
        raise InputError(
            f"with {len(first.classes)} classes --bootstrap must be at least "
            f"{resamples_needed(len(first.classes))}, or none could be separated; got {resamples}"
        )
    overall, classes = compare_paired(first.by_image, second.by_image, resamples, first.rule)
    sums = [stored.by_image.sum(axis=0) for stored in (first, second)]
    means = [float(mean_iou(s[RIGHT], s[TRUTH], s[PREDICTED], first.rule)) for s in sums]
    ious = [class_iou(s[RIGHT], s[TRUTH], s[PREDICTED]) for s in sums]
    return Comparison(
        first,
        second,
        (means[0], means[1]),
        [(float(a), float(b)) for a, b in zip(*ious, strict=True)],
        overall,
        classes,
        resamples,
    )


def _refuse_different_data(first: Stored, second: Stored) -> None:
    if first.classes != second.classes:
        raise InputError(
            f"{first.folder} and {second.folder} are of different classes: "
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
    """Say in plain words what the comparison shows, and what it cannot."""
    found, images = comparison.overall, len(comparison.first.images)
    a, b = comparison.mean_ious
    span = f"95% interval {points(found.interval.low)} to {points(found.interval.high)}"
    head = f"A {a:.4f}, B {b:.4f}: a difference of {points(found.value)} points of mean IoU"
    if found.separated:
        better = "B is better than A" if found.value > 0 else "A is better than B"
        lines = [f"Separated: {better}. {head} ({span}, p = {found.p_value:.2g})."]
    else:
        lines = [
            f"Not separated: {head} ({span}, p = {found.p_value:.2g}), which can come from which "
            f"{images} images they were tested on."
        ]
    apart = [
        f"{name} ({points(d.value)})"
        for name, d in zip(comparison.first.classes, comparison.classes, strict=True)
        if d.separated
    ]
    total = len(comparison.classes)
    lines.append(
        f"Classes separated after Holm's correction for {total}: {', '.join(apart) or 'none'}."
    )
    if comparison.first.protocol != comparison.second.protocol:
        lines.append(
            f"Mind that they were tested differently: A by {comparison.first.protocol}; "
            f"B by {comparison.second.protocol}."
        )
    lines.append(
        f"Intervals by paired bootstrap, p by paired permutation test, {comparison.resamples} "
        f"resamples of {images} images. They tell of other images, not of other seeds: train "
        "several runs for that."
    )
    return "\n".join(lines)


def comparison_table(comparison: Comparison) -> str:
    """Lay out IoU of both, the difference and its interval in points, for each class."""
    names = comparison.first.classes
    wide = max(len(name) for name in (*names, "mean IoU"))
    lines = [f"{'class':<{wide}}       A       B   B - A  95% interval      p"]
    rows = [*zip(names, comparison.class_ious, comparison.classes, strict=True)]
    for name, (a, b), d in [*rows, ("mean IoU", comparison.mean_ious, comparison.overall)]:
        interval = f"{points(d.interval.low):>6} to {points(d.interval.high):>6}"
        note = "separated" if d.separated else "not separated"
        lines.append(
            f"{name:<{wide}}  {a:6.4f}  {b:6.4f}  {points(d.value):>6}  {interval} "
            f"{d.p_value:7.4f}  {note}"
        )
    return "\n".join(lines)


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write compare.json and compare.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["mean IoU", *comparison.first.classes]
    pairs = [comparison.mean_ious, *comparison.class_ious]
    rows = [
        {
            "name": name,
            "a": plain(a),
            "b": plain(b),
            "difference": plain(d.value),
            "low": plain(d.interval.low),
            "high": plain(d.interval.high),
            "p_value": plain(d.p_value),
            "separated": d.separated,
        }
        for name, (a, b), d in zip(
            names, pairs, [comparison.overall, *comparison.classes], strict=True
        )
    ]
    result = {
        "a": {"folder": str(comparison.first.folder), "protocol": comparison.first.protocol},
        "b": {"folder": str(comparison.second.folder), "protocol": comparison.second.protocol},
        "images": len(comparison.first.images),
        "resamples": comparison.resamples,
        "verdict": verdict(comparison),
        "rows": rows,
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (folder / "compare.json").write_text(text, encoding="utf-8")
    write_csv(folder / "compare.csv", rows)
