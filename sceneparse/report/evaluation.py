"""Everything an evaluation found, as text, JSON, CSV, and the counts that comparisons need."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import LabelTable
from sceneparse.errors import InputError, refusing
from sceneparse.files import LARGEST_DESCRIPTION, read_arrays, read_json
from sceneparse.metrics.bootstrap import Interval
from sceneparse.metrics.boundary import DEFINITION, BoundaryCounts
from sceneparse.metrics.calibration import Calibration
from sceneparse.metrics.confusion import (
    ABSENT_CLASS_RULES,
    PREDICTED,
    RIGHT,
    TRUTH,
    Counts,
    Scores,
    group_counts,
    mean_iou,
    scores_from_counts,
)
from sceneparse.report.tables import (
    plain,
    score_table,
    scores_as_dict,
    totals_of,
    totals_table,
    write_confusion,
    write_scores,
)

COUNTS_FILE = "counts.npz"


@dataclass(frozen=True)
class Evaluation:
    """Counts, how they came about, and what was asked for beside them.

    `counts` (K, K), `by_image` (N, 3, K) in the order of `image_names`; intervals of mean IoU and
    of each class's IoU.
    """

    protocol: str
    rule: str
    table: LabelTable
    image_names: list[str]
    counts: Counts
    by_image: Counts
    interval: Interval | None = None
    class_intervals: list[Interval] | None = None
    boundary: BoundaryCounts | None = None
    calibration: Calibration | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def how(self) -> dict[str, str]:
        """How the scores came about, in words."""
        boundary = {} if self.boundary is None else {"boundaries": DEFINITION}
        counting = f"{self.rule}: {ABSENT_CLASS_RULES[self.rule]}"
        return {**self.facts, "protocol": self.protocol, "counting": counting, **boundary}

    @property
    def scores(self) -> Scores:
        """Scores of each class and over all."""
        return scores_from_counts(self.counts, self.rule)

    @property
    def totals(self) -> dict[str, float]:
        """All scores over all classes that were asked for, by name."""
        totals = totals_of(self.scores)
        if self.table.categories is not None:
            _, grouped = group_counts(self.counts, self.table.categories)
            totals["mean IoU of categories"] = scores_from_counts(grouped, self.rule).mean_iou
        if self.boundary is not None:
            totals["mean boundary IoU"] = self.boundary.mean_boundary_iou(self.rule)
            totals["mean boundary F1"] = self.boundary.mean_boundary_f1(self.rule)
        if self.calibration is not None:
            totals["calibration error"] = self.calibration.error
        return totals

    @property
    def image_scores(self) -> NDArray[np.float64]:
        """Mean IoU of each image over the classes in its truth or prediction (N,)."""
        right, truth, predicted = (self.by_image[:, row] for row in (RIGHT, TRUTH, PREDICTED))
        return mean_iou(right, truth, predicted)


def text(evaluation: Evaluation) -> str:
    """Lay out how the scores came about, those of each class, and the totals."""
    head = "\n".join(f"{name:<12} {value}" for name, value in evaluation.how.items())
    names = evaluation.table.names
    intervals = {"mean IoU": evaluation.interval} if evaluation.interval else {}
    return "\n\n".join(
        [
            head,
            score_table(evaluation.scores, names, evaluation.class_intervals),
            totals_table(evaluation.totals, intervals),
        ]
    )


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Collect everything but the counts as plain values."""
    names = evaluation.table.names
    result = scores_as_dict(evaluation.scores, names, evaluation.protocol, evaluation.rule)
    result["how"] = evaluation.how
    result["images"] = len(evaluation.image_names)
    if evaluation.interval is not None:
        result["mean_iou_interval"] = _pair(evaluation.interval)
    for row, interval in zip(result["classes"], evaluation.class_intervals or [], strict=False):
        row["iou_low"], row["iou_high"] = _pair(interval)
    if evaluation.table.categories is not None:
        groups, grouped = group_counts(evaluation.counts, evaluation.table.categories)
        scores = scores_from_counts(grouped, evaluation.rule)
        result["mean_category_iou"] = plain(scores.mean_iou)
        result["categories"] = [
            {"name": name, "iou": plain(iou)} for name, iou in zip(groups, scores.iou, strict=True)
        ]
    if evaluation.boundary is not None:
        result["mean_boundary_iou"] = plain(evaluation.totals["mean boundary IoU"])
        result["mean_boundary_f1"] = plain(evaluation.totals["mean boundary F1"])
        measured = zip(
            result["classes"],
            evaluation.boundary.boundary_iou(),
            evaluation.boundary.boundary_f1(),
            strict=True,
        )
        for row, iou, f1 in measured:
            row["boundary_iou"], row["boundary_f1"] = plain(iou), plain(f1)
    if evaluation.calibration is not None:
        result["calibration_error"] = plain(evaluation.calibration.error)
    return result


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write eval.json, eval.csv, confusion.csv, images.csv and counts.npz."""
    write_scores(folder, as_dict(evaluation))
    write_confusion(folder / "confusion.csv", evaluation.counts, evaluation.table.names)
    with (folder / "images.csv").open(
        "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "mean_iou"])
        for name, score in zip(evaluation.image_names, evaluation.image_scores, strict=True):
            writer.writerow([name, "" if np.isnan(score) else f"{score:.4f}"])
    np.savez_compressed(
        folder / COUNTS_FILE,
        by_image=evaluation.by_image,
        images=np.array(evaluation.image_names),
        classes=np.array(evaluation.table.names),
    )


@dataclass(frozen=True)
class Stored:
    """What a comparison reads of an evaluation's folder."""

    folder: Path
    by_image: Counts
    images: list[str]
    classes: list[str]
    protocol: str
    rule: str


def read_evaluation(folder: Path) -> Stored:
    """Read the counts of a finished evaluation; raises InputError where there are none."""
    for name in (COUNTS_FILE, "eval.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"'{folder}' holds no evaluation ({name} is missing); run tools/eval_miou.py on it "
                "first"
            )
    arrays = read_arrays(folder / COUNTS_FILE)
    written = read_json(folder / "eval.json", LARGEST_DESCRIPTION)
    with refusing(folder, "its evaluation is damaged"):
        by_image = arrays["by_image"]
        images, classes = arrays["images"].tolist(), arrays["classes"].tolist()
        protocol, rule = written["protocol"], written["absent_class_rule"].partition(":")[0]
        if by_image.shape != (len(images), 3, len(classes)) or by_image.dtype.kind not in "iu":
            raise ValueError(f"counts of shape {by_image.shape}")
        if rule not in ABSENT_CLASS_RULES:
            raise ValueError(f"unknown rule '{rule}'")
    return Stored(folder, by_image, images, classes, protocol, rule)


def _pair(interval: Interval) -> tuple[float | None, float | None]:
    return plain(interval.low), plain(interval.high)
