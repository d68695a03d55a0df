"""Time several ways of one task in turns, so that noise of the machine affects all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from sceneparse.errors import InputError
from sceneparse.metrics.significance import LEVEL
from sceneparse.report import tables
from sceneparse.report.tables import Table

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One comparison: medians in `unit`, and the mean ratio of the turns, see mean_ratio.

    The ratio is over 1 if ours is better: reference / ours for times, memory and shares, ours /
    reference for rates. `low`, `high`: its interval; NaN if it was measured in one turn only.
    """

    name: str
    ours: float
    reference: float
    ratio: float
    unit: str
    low: float
    high: float
    turns: int


class Ratio(NamedTuple):
    """A ratio, and the ends of its interval of level LEVEL; NaN if it was measured once."""

    value: float
    low: float
    high: float


def mean_ratio(ratios: Sequence[float]) -> Ratio:
    """Return the mean of the ratios of all turns and its 95% interval.

    Both are computed on the logarithmic scale, so that a ratio and its inverse say the same; the
    interval is Student's.
    """
    logs = np.log(ratios)
    reach = math.nan
    if len(logs) > 1:
        reach = stats.sem(logs) * stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1)
    return Ratio(*np.exp(logs.mean() + np.array([0, -reach, reach])).tolist())


def compare(name: str, ours: Work, reference: Work, *, repeats: int = 7, pause: float = 0.0) -> Row:
    """Time both in turns, after one warm-up each; see in_turns."""
    seconds = in_turns({"ours": ours, "reference": reference}, repeats=repeats, pause=pause)
    return time_row(name, seconds["ours"], seconds["reference"])


def in_turns(
    works: Mapping[str, Work], *, repeats: int = 7, pause: float = 0.0
) -> dict[str, list[float]]:
    """Time all works once per turn, after one warm-up each; return their seconds by turn.

    `pause`: seconds before each timing, so that background work of the others can finish.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            time.sleep(pause)
            seconds[name].append(timeit(work, number=1))
    return seconds


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the median, from two of the values: NaN for fewer than six.

    It holds for values of any distribution (Conover, Practical Nonparametric Statistics, 1999).
    """
    ends: Any = stats.quantile_test(values, p=0.5).confidence_interval(LEVEL)
    return float(ends.low), float(ends.high)


def time_row(name: str, ours: Sequence[float], reference: Sequence[float]) -> Row:
    """Return a row of seconds measured in turns."""
    return cost_row(name, [1000 * s for s in ours], [1000 * s for s in reference], "ms")


def rate_row(name: str, ours: Sequence[float], reference: Sequence[float], unit: str) -> Row:
    """Return a row of rates (more is better) measured in turns."""
    ratios = [mine / theirs for mine, theirs in zip(ours, reference, strict=True)]
    return _row(name, ours, reference, ratios, unit)


def cost_row(name: str, ours: Sequence[float], reference: Sequence[float], unit: str) -> Row:
    """Return a row of costs (less is better) measured in turns."""
    ratios = [theirs / mine for mine, theirs in zip(ours, reference, strict=True)]
    return _row(name, ours, reference, ratios, unit)


def _row(
    name: str,
    ours: Sequence[float],
    reference: Sequence[float],
    ratios: Sequence[float],
    unit: str,
) -> Row:
    ratio, low, high = mean_ratio(ratios)
    return Row(name, median(ours), median(reference), ratio, unit, low, high, len(ratios))


def as_table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table."""
    cells = [
        [
            row.name,
            f"{row.ours:.4g}",
            f"{row.reference:.4g}",
            row.unit,
            f"{row.ratio:.3f}x",
            "measured once" if row.turns == 1 else f"{row.low:.3f} to {row.high:.3f}",
        ]
        for row in rows
    ]
    return Table("", ["", "ours", "reference", "unit", "ratio", "95% interval"], cells)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write [{name, ours, reference, ratio, unit, low, high, turns}]; NaN becomes null."""
    tables.write_json(path, [asdict(row) for row in rows])


def check_folders(*paths: str | None) -> None:
    """Raise InputError if the folder of a file to write does not exist, before any measuring."""
    for path in filter(None, paths):
        if not Path(path).parent.is_dir():
            raise InputError(f"cannot write '{path}': '{Path(path).parent}' is not a folder")
