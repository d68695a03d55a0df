"""A comparison of classifiers as tables, sentences and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sceneparse.metrics.significance import MeanDifference
from sceneparse.report.classifiers import Comparison
from sceneparse.report.costs import Costs
from sceneparse.report.layout import Table
from sceneparse.report.seeds import Spread
from sceneparse.report.tables import plain
from sceneparse.report.words import p_word, points, verdict_word


def score_table(comparison: Comparison) -> Table:
    """Lay out mean, deviation and interval of accuracy and loss over the seeds of each group."""
    heads = ["", "seeds", "accuracy %", "sd", "95% interval"]
    heads += ["loss", "sd", "95% interval", "best epoch %"]
    rows = [
        [
            row.name,
            str(row.seeds),
            *_spread_cells(row.accuracy, _percent),
            *_spread_cells(row.loss, _four_digits),
            _percent(row.best_accuracy.mean),
        ]
        for row in comparison.rows
    ]
    return Table("On the test images, after the last epoch", heads, rows)


def _spread_cells(spread: Spread, write: Callable[[float], str]) -> list[str]:
    if math.isnan(spread.deviation):
        return [write(spread.mean), "-", "-"]
    interval = f"{write(spread.low)} to {write(spread.high)}"
    return [write(spread.mean), write(spread.deviation), interval]


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _four_digits(value: float) -> str:
    return f"{value:.4f}"


def pair_tables(comparison: Comparison) -> list[Table]:
    """Lay out every pair's difference with its interval and p-values: accuracy, then loss."""
    measures = {
        "Accuracy, every pair (points)": (comparison.accuracy, points),
        "Loss, every pair": (comparison.loss, lambda value: f"{value:+.4f}"),
    }
    heads = ["", "difference", "95% interval", "p", "p after Holm", "verdict"]
    return [
        Table(title, heads, [_pair_row(pair, write) for pair in pairs])
        for title, (pairs, write) in measures.items()
    ]


def _pair_row(pair: MeanDifference, write: Callable[[float], str]) -> list[str]:
    interval = f"{write(pair.low)} to {write(pair.high)}" if pair.tested else "-"
    return [
        f"{pair.second} - {pair.first}",
        write(pair.value),
        interval,
        p_word(pair.p_value),
        p_word(pair.adjusted),
        verdict_word(pair),
    ]


def verdicts(comparison: Comparison) -> list[str]:
    """Say in plain words how each group does against the first, and what the words rest on."""
    lines = [_verdict(comparison.against_first(name)) for name in [*comparison.groups][1:]]
    pairs = sum(pair.tested for pair in comparison.accuracy)
    if pairs:
        lines.append(
            f"Welch's test on seeds, Holm's correction for {pairs} pair{'s' * (pairs > 1)}; "
            "intervals are of each pair alone. It tells of other seeds on the same test images, "
            "not of other images; not separated does not mean equal."
        )
    return lines


def _verdict(pair: MeanDifference) -> str:
    gain = f"{pair.second}: {points(pair.value)} points of accuracy over {pair.first}"
    if not pair.tested:
        return f"{gain}; not tested (too few seeds, or no spread)."
    span = f"95% interval {points(pair.low)} to {points(pair.high)}"
    better = f": {'better' if pair.value > 0 else 'worse'}" if pair.separated else ""
    return f"{gain} ({span}, p {p_word(pair.adjusted)} after Holm); {verdict_word(pair)}{better}."


def as_values(
    comparison: Comparison, costs: Mapping[str, Costs], facts: Mapping[str, str]
) -> dict[str, Any]:
    """Collect everything as plain values; what is not defined is null."""
    return {
        "groups": [
            {
                "name": row.name,
                "folder": str(comparison.groups[row.name].folder),
                "seeds": [curve.seed for curve in comparison.groups[row.name].curves],
                "accuracy": row.accuracy.as_values(),
                "loss": row.loss.as_values(),
                "best_accuracy": row.best_accuracy.as_values(),
                "costs": dict(costs.get(row.name, {})),
            }
            for row in comparison.rows
        ],
        "accuracy": [_pair_values(pair) for pair in comparison.accuracy],
        "loss": [_pair_values(pair) for pair in comparison.loss],
        "verdicts": verdicts(comparison),
        "notes": comparison.notes,
        "facts": dict(facts),
    }


def group_records(comparison: Comparison, costs: Mapping[str, Costs]) -> list[dict[str, Any]]:
    """Collect a flat record for each group, for CSV."""
    return [
        {
            "name": row.name,
            "seeds": row.seeds,
            **_flat("accuracy", row.accuracy),
            **_flat("loss", row.loss),
            **_flat("best_accuracy", row.best_accuracy),
            **costs.get(row.name, {}),
        }
        for row in comparison.rows
    ]


def pair_records(comparison: Comparison) -> list[dict[str, Any]]:
    """Collect a flat record for each pair and measure, for CSV."""
    measures: dict[str, Sequence[MeanDifference]] = {
        "accuracy": comparison.accuracy,
        "loss": comparison.loss,
    }
    return [
        {"measure": measure, **_pair_values(pair)}
        for measure, pairs in measures.items()
        for pair in pairs
    ]


def _flat(name: str, spread: Spread) -> dict[str, float | None]:
    values = spread.as_values()
    del values["values"]
    return {f"{name}_{key}": value for key, value in values.items()}


def _pair_values(pair: MeanDifference) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": plain(pair.value),
        "low": plain(pair.low),
        "high": plain(pair.high),
        "p_value": plain(pair.p_value),
        "holm_p_value": plain(pair.adjusted),
        "separated": pair.separated,
    }
