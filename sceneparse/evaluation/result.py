"""The results of an evaluation: as text, JSON and CSV, and the counts that comparisons need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import LabelTable
from sceneparse.errors import InputError, refusing
from sceneparse.files import MAX_DESCRIPTION, read_arrays, read_json
from sceneparse.metrics.boundary import DEFINITION, BoundaryCounts
from sceneparse.metrics.calibration import Calibration
from sceneparse.metrics.confusion import (
    ABSENT_CLASS_RULES,
    PREDICTED,
    RIGHT,
    TRUTH,
    Counts,
    Scores,
    class_iou,
    group_counts,
    mean_iou,
    scores_from_counts,
)
from sceneparse.metrics.intervals import Interval, few_images_note
from sceneparse.metrics.regions import DEFINITION as REGIONS
from sceneparse.metrics.regions import SIZES, RegionCounts, distance_names
from sceneparse.metrics.risk import Risk
from sceneparse.report.tables import (
    four_digits,
    plain,
    score_table,
    scores_as_dict,
    span,
    totals_of,
    totals_table,
    write_csv,
    write_json,
    write_lines,
)

COUNTS_FILE = "counts.npz"


@dataclass(frozen=True)
class Evaluation:
    """The counts of an evaluation, how it was done, and optional results.

    `counts`: the confusion matrix (K, K). `by_image` (N, 3, K): correct, true and predicted pixels
    of each image, in the order of `image_names`. `interval`: of the mean IoU. `class_intervals`: of
    the IoU per class. `excluded`: classes that are in no mean. `facts`: lines for the reader, by
    heading. `settings`: what was evaluated and how; comparisons choose folders of results by them.
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
    risk: Risk | None = None
    regions: RegionCounts | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    excluded: Sequence[int] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def excluded_names(self) -> list[str]:
        """Names of the excluded classes."""
        return [self.table.names[number] for number in self.excluded]

    @property
    def how(self) -> dict[str, str]:
        """How the scores were computed, by heading."""
        counting = f"{self.rule}: {ABSENT_CLASS_RULES[self.rule]}"
        if self.excluded:
            counting += (
                f"; excluded from the means: {', '.join(self.excluded_names)}, whose pixels still "
                "count as wrong predictions of other classes"
            )
        how = {**self.facts, "protocol": self.protocol, "counting": counting}
        how |= {} if self.boundary is None else {"boundaries": DEFINITION}
        return how if self.regions is None else {**how, "regions": REGIONS}

    @property
    def interval_words(self) -> str:
        """The interval of the mean IoU, "0.6412 to 0.7031"; "" if there is none."""
        known = self.interval is not None and not np.isnan(self.interval.low)
        return span(self.interval, four_digits) if self.interval and known else ""

    @property
    def interval_note(self) -> str:
        """A warning about the intervals if there are few images; otherwise ""."""
        return few_images_note(len(self.image_names)) if self.interval else ""

    @cached_property
    def scores(self) -> Scores:
        """Scores per class and over all classes."""
        return scores_from_counts(self.counts, self.rule, self.excluded)

    @cached_property
    def categories(self) -> tuple[list[str], Scores] | None:
        """Names and scores of the groups of classes, if the dataset has groups."""
        if self.table.categories is None:
            return None
        names, grouped = group_counts(self.counts, self.table.categories)
        counted = {group for k, group in enumerate(self.table.categories) if k not in self.excluded}
        excluded = [k for k, name in enumerate(names) if name not in counted]
        return names, scores_from_counts(grouped, self.rule, excluded)

    @cached_property
    def totals(self) -> dict[str, float]:
        """All requested scores over all classes, by name."""
        totals = totals_of(self.scores)
        if self.categories is not None:
            totals["mean IoU of categories"] = self.categories[1].mean_iou
        if self.boundary is not None:
            totals["mean boundary IoU"] = self.boundary.mean_boundary_iou(self.rule, self.excluded)
            totals["mean boundary F1"] = self.boundary.mean_boundary_f1(self.rule, self.excluded)
        if self.calibration is not None:
            totals["calibration error"] = self.calibration.error
        return totals

    @cached_property
    def image_scores(self) -> NDArray[np.float64]:
        """Mean IoU of each image over the classes in its truth or prediction (N,)."""
        return image_mean_iou(self.by_image, self.excluded)


def image_mean_iou(counts: Counts, excluded: Sequence[int] = ()) -> NDArray[np.float64]:
    """Compute the mean IoU of each image from its counts (..., 3, K); NaN if nothing counts."""
    right, truth, predicted = (counts[..., row, :] for row in (RIGHT, TRUTH, PREDICTED))
    return mean_iou(right, truth, predicted, excluded=excluded)


def excluded_classes(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the numbers of the classes to exclude; raise InputError for a wrong name, or all."""
    if unknown := [name for name in names if name not in classes]:
        raise InputError(f"--exclude: no class '{unknown[0]}'; the model has {', '.join(classes)}")
    excluded = sorted({classes.index(name) for name in names})
    if len(excluded) == len(classes):
        raise InputError("--exclude names every class, so no class would be left to score")
    return excluded


def text(evaluation: Evaluation) -> str:
    """Format how the scores were computed, the scores per class, and the totals."""
    head = "\n".join(f"{name:<12} {value}" for name, value in evaluation.how.items())
    excluded = set(evaluation.excluded_names)
    names = [f"{n} (excluded)" if n in excluded else n for n in evaluation.table.names]
    intervals = {"mean IoU": evaluation.interval} if evaluation.interval else {}
    classes = score_table(evaluation.scores, names, evaluation.class_intervals)
    totals = totals_table(evaluation.totals, intervals)
    note = [evaluation.interval_note] if evaluation.interval_note else []
    return "\n\n".join([head, classes, "\n".join([totals, *note])])


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything but the counts as plain values."""
    names, totals = evaluation.table.names, evaluation.totals
    result = scores_as_dict(evaluation.scores, names, evaluation.protocol, evaluation.rule)
    result |= {"how": evaluation.how, "images": len(evaluation.image_names)}
    result |= {"excluded": evaluation.excluded_names, "settings": evaluation.settings}
    if evaluation.interval is not None:
        result["mean_iou_interval"] = [evaluation.interval.low, evaluation.interval.high]
        result["interval_note"] = evaluation.interval_note
    for row, interval in zip(result["classes"], evaluation.class_intervals or [], strict=False):
        row |= {"iou_low": interval.low, "iou_high": interval.high}
    if evaluation.categories is not None:
        groups, scores = evaluation.categories
        rows = zip(groups, scores.iou, strict=True)
        result["mean_category_iou"] = scores.mean_iou
        result["categories"] = [{"name": name, "iou": iou} for name, iou in rows]
    if evaluation.boundary is not None:
        result["mean_boundary_iou"] = totals["mean boundary IoU"]
        result["mean_boundary_f1"] = totals["mean boundary F1"]
        measured = (evaluation.boundary.boundary_iou(), evaluation.boundary.boundary_f1())
        for row, iou, f1 in zip(result["classes"], *measured, strict=True):
            row |= {"boundary_iou": iou, "boundary_f1": f1}
    if evaluation.regions is not None:
        for row, found in zip(result["classes"], _region_rows(evaluation.regions), strict=True):
            row.update(found)
    result |= _confidence_results(evaluation)
    values: dict[str, Any] = plain(result)
    return values


def _confidence_results(evaluation: Evaluation) -> dict[str, Any]:
    """Return the calibration error, and coverage and error by confidence, where measured."""
    calibration, risk = evaluation.calibration, evaluation.risk
    error = {} if calibration is None else {"calibration_error": calibration.error}
    return error if risk is None else {**error, "risk_coverage": risk.table()}


def _region_rows(regions: RegionCounts) -> list[dict[str, Any]]:
    """Return the recall by size and the accuracy by distance of each class."""
    by_size, by_distance = regions.region_recall().T, regions.accuracy_by_distance().T
    totals = regions.regions().transpose(2, 1, 0)
    return [
        {
            **{f"recall_{size}": value for size, value in zip(SIZES, recall, strict=True)},
            **{f"regions_{size}": int(n) for size, (n, _) in zip(SIZES, counts, strict=True)},
            **{f"found_{size}": int(n) for size, (_, n) in zip(SIZES, counts, strict=True)},
            "accuracy_by_distance": dict(zip(distance_names(), accuracy, strict=True)),
        }
        for recall, accuracy, counts in zip(by_size, by_distance, totals, strict=True)
    ]


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write eval.json, eval.csv, confusion.csv, images.csv and counts.npz."""
    result, names = as_dict(evaluation), evaluation.table.names
    write_json(folder / "eval.json", result)
    plain_rows = [
        {key: value for key, value in row.items() if not isinstance(value, dict)}
        for row in result["classes"]
    ]
    write_csv(folder / "eval.csv", plain_rows)
    # A row per true class, a column per predicted one.
    rows = [[name, *row] for name, row in zip(names, evaluation.counts.tolist(), strict=True)]
    write_lines(folder / "confusion.csv", [["truth \\ prediction", *names], *rows])
    images = zip(evaluation.image_names, evaluation.image_scores, strict=True)
    lines = [[name, "" if np.isnan(score) else f"{score:.4f}"] for name, score in images]
    write_lines(folder / "images.csv", [["image", "mean_iou"], *lines])
    np.savez_compressed(
        folder / COUNTS_FILE,
        by_image=evaluation.by_image,
        images=np.array(evaluation.image_names),
        classes=np.array(names),
    )


@dataclass(frozen=True)
class Stored:
    """The part of a finished evaluation that comparisons need; `by_image` (N, 3, K).

    Counts and names are without the `excluded` classes.
    """

    folder: Path
    by_image: Counts
    images: list[str]
    classes: list[str]
    protocol: str
    rule: str
    how: Mapping[str, Any]
    excluded: list[str] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def mean_iou(self) -> float:
        """Mean IoU over the classes of the rule."""
        sums = self.by_image.sum(axis=0)
        return float(mean_iou(sums[RIGHT], sums[TRUTH], sums[PREDICTED], self.rule))

    @cached_property
    def class_ious(self) -> list[float]:
        """IoU per class; NaN for a class without pixels in truth and prediction."""
        sums = self.by_image.sum(axis=0)
        return [float(iou) for iou in class_iou(sums[RIGHT], sums[TRUTH], sums[PREDICTED])]


def read_evaluation(folder: Path) -> Stored:
    """Read a finished evaluation; raises InputError if it is missing or damaged."""
    for name in (COUNTS_FILE, "eval.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"'{folder}' holds no evaluation ({name} is missing); evaluate it first"
            )
    arrays = read_arrays(folder / COUNTS_FILE)
    written = read_json(folder / "eval.json", MAX_DESCRIPTION)
    with refusing(folder, "its evaluation is damaged"):
        by_image = arrays["by_image"]
        images, classes = arrays["images"].tolist(), arrays["classes"].tolist()
        protocol, rule = written["protocol"], written["absent_class_rule"].partition(":")[0]
        if by_image.shape != (len(images), 3, len(classes)) or by_image.dtype.kind not in "iu":
            raise ValueError(f"counts of shape {by_image.shape}")
        if rule not in ABSENT_CLASS_RULES:
            raise ValueError(f"unknown rule '{rule}'")
        how, excluded = dict(written.get("how", {})), list(written.get("excluded", []))
        settings = dict(written.get("settings", {}))
        by_image = np.delete(by_image, [classes.index(name) for name in excluded], axis=2)
        classes = [name for name in classes if name not in excluded]
    return Stored(folder, by_image, images, classes, protocol, rule, how, excluded, settings)
