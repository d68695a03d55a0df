"""Write tables as text, Markdown, CSV and JSON, and format scores, differences and intervals."""

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
    """A title, the heads of the columns, and rows of cells; the first column is text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def letters(self) -> int:
        """Letters of a line in which each column is as wide as its longest cell."""
        return sum(max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True))

    def as_text(self, *, numbers: bool = True) -> str:
        """Format for a terminal: first column left, others right; without `numbers` all left."""
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
        """Format as Markdown: first column left, others right; without `numbers` all left."""
        rule = ["---", *("---:" if numbers else "---" for _ in self.heads[1:])]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
            for line in (self.heads, rule, *self.rows)
        )


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Replace NaN and infinity, which JSON does not have, by None, also in lists and dicts."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a value as JSON; NaN and infinity become null."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False)
    # Bytes of file names that are no text become escapes, as JSON writes them.
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV; None becomes an empty cell."""
    write_lines(path, [[*rows[0]], *([row[head] for head in rows[0]] for row in rows)])


def write_lines(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """Write lines of cells as CSV."""
    # File names may contain bytes that are not UTF-8.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def points(value: float) -> str:
    """Format a share as signed points: 0.0123 as +1.23."""
    return f"{100 * value:+.2f}"


def four_digits(value: float) -> str:
    """Format a score with four digits, "-" if it is NaN."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def span(found: Interval | MeanDifference, write: Callable[[float], str] = points) -> str:
    """Format the interval from `low` to `high`, "-" if there is none."""
    if math.isnan(found.low):
        return "-"
    return f"{write(found.low)} to {write(found.high)}"


def p_word(p_value: float) -> str:
    """Format a p-value with two digits, "-" if there was no test."""
    return "-" if math.isnan(p_value) else f"{p_value:.2g}"


def verdict_word(difference: MeanDifference) -> str:
    """Return "separated", "not separated" or "not tested"."""
    if not difference.tested:
        return "not tested"
    return "separated" if difference.separated else "not separated"


def score_table(
    scores: Scores, names: Sequence[str], intervals: Sequence[Interval] | None = None
) -> str:
    """Format the scores per class, with intervals of IoU if given, as text."""
    total = max(int(scores.pixels.sum()), 1)
    columns: dict[str, Iterable[str]] = {
        "class": names,
        "IoU": map(four_digits, scores.iou),
        **({} if intervals is None else {"95% interval": map(_between, intervals)}),
        "accuracy": map(four_digits, scores.accuracy),
        "precision": map(four_digits, scores.precision),
        "Dice": map(four_digits, scores.dice),
        "pixels": [f"{100 * pixels / total:.2f}%" for pixels in scores.pixels],
    }
    return Table("Classes", [*columns], [*zip(*columns.values(), strict=True)]).as_text()


def totals_table(totals: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Format one total per line, with its interval if there is one."""
    wide = max(map(len, totals))
    return "\n".join(
        f"{name:<{wide}}  {four_digits(value):>6}"
        + (f"  (95% interval {_between(intervals[name])})" if name in intervals else "")
        for name, value in totals.items()
    )


def _between(interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"{interval.low:.4f} - {interval.high:.4f}"


def totals_of(scores: Scores) -> dict[str, float]:
    """Return the scores over all classes by name."""
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
    """Return scores as plain values; null if a score is not defined for a class."""
    totals = {
        name.replace(" ", "_").replace("-", "_").lower(): value
        for name, value in totals_of(scores).items()
    }
    keys = ("iou", "accuracy", "precision", "dice", "pixels")
    columns = {"name": names, **{key: getattr(scores, key).tolist() for key in keys}}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    how = {"protocol": protocol, "absent_class_rule": f"{rule}: {ABSENT_CLASS_RULES[rule]}"}
    result: dict[str, Any] = plain({**totals, **how, "classes": rows})
    return result
