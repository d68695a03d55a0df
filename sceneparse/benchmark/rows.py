"""Timing two ways of one task in turns, so that the machine's noise hits both alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from timeit import timeit


@dataclass(frozen=True)
class Row:
    """One comparison: medians in `unit`, and reference / ours with its range over the repeats."""

    name: str
    ours: float
    reference: float
    ratio: float
    unit: str
    lowest_ratio: float
    highest_ratio: float


def compare(
    name: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    repeats: int = 7,
    pause: float = 0.0,
) -> Row:
    """Time both in turns, after one warm-up each.

    `pause`: seconds before each timing, for what the other left running to come to rest.
    """
    ours()
    reference()
    pairs = [(_seconds(ours, pause), _seconds(reference, pause)) for _ in range(repeats)]
    ratios = [theirs / mine for mine, theirs in pairs]
    return Row(
        name=name,
        ours=1000 * median(mine for mine, _ in pairs),
        reference=1000 * median(theirs for _, theirs in pairs),
        ratio=median(ratios),
        unit="ms",
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
    )


def _seconds(work: Callable[[], object], pause: float) -> float:
    time.sleep(pause)
    return timeit(work, number=1)


def text_table(rows: Sequence[Row]) -> str:
    """Lay the rows out for reading."""
    wide = max(len(row.name) for row in rows)
    lines = [f"{'':<{wide}}      ours  reference  unit   ratio  (range)"]
    for row in rows:
        spread = f"({row.lowest_ratio:.2f}-{row.highest_ratio:.2f})"
        lines.append(
            f"{row.name:<{wide}}  {row.ours:8.2f}  {row.reference:9.2f}  {row.unit:<4} "
            f"{row.ratio:6.2f}x {spread}"
        )
    return "\n".join(lines)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write [{name, ours, reference, ratio, unit, ...}]."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
