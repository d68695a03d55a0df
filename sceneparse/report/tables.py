"""Scores as a text table, CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.metrics.bootstrap import Interval
from sceneparse.metrics.confusion import ABSENT_CLASS_RULES, Scores
from sceneparse.report.layout import write_csv


def score_table(
    scores: Scores, names: Sequence[str], intervals: Sequence[Interval] | None = None
) -> str:
    """Lay out the scores of each class and the totals below; intervals of IoU where given."""
    total = max(int(scores.pixels.sum()), 1)
    wide = max(len(name) for name in (*names, "class"))
    between = "" if intervals is None else "  95% interval"
    lines = [f"{'class':<{wide}}    IoU{between}  accuracy  precision    Dice  pixels"]
    for k, name in enumerate(names):
        numbers = (scores.accuracy[k], scores.precision[k], scores.dice[k])
        accuracy, precision, dice = map(_number, numbers)
        spread = "" if intervals is None else f"  {_between(intervals[k])}"
        share = f"{100 * scores.pixels[k] / total:6.2f}%"
        lines.append(
            f"{name:<{wide}} {_number(scores.iou[k])}{spread}    {accuracy}     {precision}  "
            f"{dice} {share}"
        )
    return "\n".join(lines)


def totals_table(totals: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Lay out one total per line, with its interval where there is one."""
    wide = max(map(len, totals))
    return "\n".join(
        f"{name:<{wide}}  {_number(value)}"
        + (f"  (95% interval {_between(intervals[name])})" if name in intervals else "")
        for name, value in totals.items()
    )


def totals_of(scores: Scores) -> dict[str, float]:
    """Name the scores over all classes."""
    return {
        "mean IoU": scores.mean_iou,
        "pixel accuracy": scores.pixel_accuracy,
        "frequency-weighted IoU": scores.frequency_weighted_iou,
        "mean accuracy": scores.mean_accuracy,
        "mean Dice": scores.mean_dice,
    }


def scores_as_dict(
    scores: Scores, names: Sequence[str], protocol: str, rule: str = "cityscapes"
) -> dict[str, Any]:
    """Collect scores as plain values; what is not defined for a class is null."""
    totals = {
        name.replace(" ", "_").replace("-", "_").lower(): plain(value)
        for name, value in totals_of(scores).items()
    }
    return {
        **totals,
        "protocol": protocol,
        "absent_class_rule": f"{rule}: {ABSENT_CLASS_RULES[rule]}",
        "classes": [
            {
                "name": name,
                "iou": plain(scores.iou[k]),
                "accuracy": plain(scores.accuracy[k]),
                "precision": plain(scores.precision[k]),
                "dice": plain(scores.dice[k]),
                "pixels": int(scores.pixels[k]),
            }
            for k, name in enumerate(names)
        ],
    }


def write_scores(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `scores_as_dict`'s result as FOLDER/eval.json and its classes as FOLDER/eval.csv."""
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (folder / "eval.json").write_text(text, encoding="utf-8")
    write_csv(folder / "eval.csv", result["classes"])


def write_confusion(path: Path, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """Write pixel counts (K, K) as CSV: a row per true class, a column per predicted one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["truth \\ prediction", *names])
        for name, row in zip(names, counts.tolist(), strict=True):
            writer.writerow([name, *row])


def plain(value: float) -> float | None:
    """Turn NaN and infinity, which JSON has no word for, into None."""
    return float(value) if math.isfinite(value) else None


def _number(value: float) -> str:
    return "     -" if math.isnan(value) else f"{value:6.4f}"


def _between(interval: Interval) -> str:
    return f"{_number(interval.low).strip()} - {_number(interval.high).strip()}"
