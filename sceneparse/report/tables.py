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

from sceneparse.metrics import ABSENT_CLASS_RULE, Scores


def score_table(scores: Scores, names: Sequence[str]) -> str:
    """Lay out per-class IoU, accuracy and share of true pixels, and the totals below."""
    total = max(int(scores.pixels.sum()), 1)
    wide = max(len(name) for name in (*names, "class"))
    lines = [f"{'class':<{wide}}    IoU  accuracy  pixels"]
    for name, iou, accuracy, pixels in zip(
        names, scores.iou, scores.accuracy, scores.pixels, strict=True
    ):
        share = f"{100 * pixels / total:6.2f}%"
        lines.append(f"{name:<{wide}}  {_number(iou)}    {_number(accuracy)} {share}")
    totals = {
        "mean IoU": scores.mean_iou,
        "pixel accuracy": scores.pixel_accuracy,
        "frequency-weighted IoU": scores.frequency_weighted_iou,
    }
    lines += ["", *(f"{name:<22} {value:.4f}" for name, value in totals.items())]
    return "\n".join(lines)


def scores_as_dict(scores: Scores, names: Sequence[str], protocol: str) -> dict[str, Any]:
    """Collect scores as plain values; a class that is nowhere has null for a score."""
    return {
        "mean_iou": _plain(scores.mean_iou),
        "pixel_accuracy": _plain(scores.pixel_accuracy),
        "frequency_weighted_iou": _plain(scores.frequency_weighted_iou),
        "protocol": protocol,
        "absent_class_rule": ABSENT_CLASS_RULE,
        "classes": [
            {"name": name, "iou": _plain(iou), "accuracy": _plain(accuracy), "pixels": int(pixels)}
            for name, iou, accuracy, pixels in zip(
                names, scores.iou, scores.accuracy, scores.pixels, strict=True
            )
        ],
    }


def write_scores(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `scores_as_dict`'s result as FOLDER/eval.json and its classes as FOLDER/eval.csv."""
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (folder / "eval.json").write_text(text, encoding="utf-8")
    with (folder / "eval.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", "iou", "accuracy", "pixels"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(result["classes"])


def write_confusion(path: Path, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    """Write pixel counts (K, K) as CSV: a row per true class, a column per predicted one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["truth \\ prediction", *names])
        for name, row in zip(names, counts.tolist(), strict=True):
            writer.writerow([name, *row])


def _number(value: float) -> str:
    return "     -" if math.isnan(value) else f"{value:6.4f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
