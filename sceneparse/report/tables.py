"""Tables as text, Markdown, CSV and JSON; numbers, differences and scores in words."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sceneparse.metrics.confusion import ABSENT_CLASS_RULES, Scores
from sceneparse.metrics.intervals import Interval
from sceneparse.metrics.significance import MeanDifference


@dataclass(frozen=True)
class Table:
    """A title, the heads of the columns, and rows of cells; the first column is words."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self, *, numbers: bool = True) -> str:
        """Lay out for a terminal: words left, numbers right; without `numbers` all left."""
        lines = [self.heads, *self.rows]
        wide = [max(len(line[k]) for line in lines) for k in range(len(self.heads))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column and numbers else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, wide, strict=True))
            ).rstrip()
            for line in lines
        )

    def as_markdown(self, *, numbers: bool = True) -> str:
        """Lay out as a Markdown table: words left, numbers right; without `numbers` all left."""
        rule = ["---", *("---:" if numbers else "---" for _ in self.heads[1:])]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
            for line in (self.heads, rule, *self.rows)
        )


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Replace NaN and infinity, which JSON cannot hold, by None, also inside lists and dicts."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write a value as JSON; what is not finite becomes null."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV; None becomes an empty cell."""
    heads = list(rows[0])
    write_lines(path, [heads, *([row[head] for head in heads] for row in rows)])


def write_lines(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """Write lines of cells as CSV."""
    # Names of files may hold bytes that are no text.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def points(value: float) -> str:
    """Write a share as signed points: 0.0123 as +1.23."""
    return f"{100 * value:+.2f}"


def four_digits(value: float) -> str:
    """Write a score with four digits, "-" if it is NaN."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def span(found: Interval | MeanDifference, write: Callable[[float], str] = points) -> str:
    """Write the interval from `low` to `high`."""
    return f"{write(found.low)} to {write(found.high)}"


def p_word(p_value: float) -> str:
    """Write a p-value with two digits, "-" if there was no test."""
    return "-" if math.isnan(p_value) else f"{p_value:.2g}"


def verdict_word(difference: MeanDifference) -> str:
    """Return whether a difference is separated, or that it was not tested."""
    if not difference.tested:
        return "not tested"
    return "separated" if difference.separated else "not separated"


def score_table(
    scores: Scores, names: Sequence[str], intervals: Sequence[Interval] | None = None
) -> str:
    """Lay out the scores of each class, with intervals of IoU if given, as text."""
    total = max(int(scores.pixels.sum()), 1)
    spread = [] if intervals is None else ["95% interval"]
    heads = ["class", "IoU", *spread, "accuracy", "precision", "Dice", "pixels"]
    rows = [
        [
            name,
            four_digits(scores.iou[k]),
            *([] if intervals is None else [_between(intervals[k])]),
            *map(four_digits, (scores.accuracy[k], scores.precision[k], scores.dice[k])),
            f"{100 * scores.pixels[k] / total:.2f}%",
        ]
        for k, name in enumerate(names)
    ]
    return Table("Classes", heads, rows).as_text()


def totals_table(totals: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Lay out one total per line, with its interval if there is one."""
    wide = max(map(len, totals))
    return "\n".join(
        f"{name:<{wide}}  {four_digits(value):>6}"
        + (f"  (95% interval {_between(intervals[name])})" if name in intervals else "")
        for name, value in totals.items()
    )


def _between(interval: Interval) -> str:
    return f"{four_digits(interval.low)} - {four_digits(interval.high)}"


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
        name.replace(" ", "_").replace("-", "_").lower(): value
        for name, value in totals_of(scores).items()
    }
    columns = {
        "name": names,
        "iou": scores.iou.tolist(),
        "accuracy": scores.accuracy.tolist(),
        "precision": scores.precision.tolist(),
        "dice": scores.dice.tolist(),
        "pixels": scores.pixels.tolist(),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    how = {"protocol": protocol, "absent_class_rule": f"{rule}: {ABSENT_CLASS_RULES[rule]}"}
    result: dict[str, Any] = plain({**totals, **how, "classes": rows})
    return result
