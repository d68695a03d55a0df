"""The results of a comparison of classifiers: verdicts, tables, page, JSON and plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sceneparse.metrics.significance import MeanDifference
from sceneparse.report.pages import figure_uri, write_page
from sceneparse.report.plots import save_plot
from sceneparse.report.tables import Table, p_word, points, span, verdict_word, write_json
from sceneparse.studies.classifiers import Comparison, Group
from sceneparse.studies.costs import Costs, cost_table, draw_trade_offs, known_kinds
from sceneparse.studies.seeds import draw_curves


def verdicts(comparison: Comparison) -> list[str]:
    """Describe how each group differs from the first, and by which test."""
    lines = [_verdict(pair) for pair in comparison.gains]
    pairs = sum(pair.tested for pair in comparison.pairs["accuracy"])
    if pairs:
        lines.append(
            f"Welch's test on seeds, Holm's correction for {pairs} pair{'s' * (pairs > 1)}; "
            "intervals are of each pair alone. The test is about other seeds on the same test "
            "images, not about other images; not separated does not mean equal."
        )
    return lines


def _verdict(pair: MeanDifference) -> str:
    gain = f"{pair.second}: {points(pair.value)} points of accuracy over {pair.first}"
    if not pair.tested:
        return f"{gain}; not tested (too few seeds, or no spread)."
    chance = f"95% interval {span(pair)}, p {p_word(pair.adjusted)} after Holm"
    better = f": {'better' if pair.value > 0 else 'worse'}" if pair.separated else ""
    return f"{gain} ({chance}); {verdict_word(pair)}{better}."


def tables_of(comparison: Comparison, costs: Mapping[str, Costs]) -> list[Table]:
    """Lay out scores, pairs and costs; tables without rows are skipped."""
    tables = [
        _score_table(comparison),
        _pair_table("Accuracy, every pair (points)", comparison.pairs["accuracy"], points),
        _pair_table("Loss, every pair", comparison.pairs["loss"], "{:+.4f}".format),
    ]
    if costs:
        tables.append(cost_table(comparison.gains, comparison.first, costs))
    return [table for table in tables if table.rows]


def _score_table(comparison: Comparison) -> Table:
    heads = ["", "seeds", "accuracy %", "sd", "95% interval"]
    heads += ["loss", "sd", "95% interval", "best epoch %"]
    rows = [
        [
            name,
            str(len(group.curves)),
            *group.spreads["accuracy"].cells(_percent),
            *group.spreads["loss"].cells("{:.4f}".format),
            _percent(group.spreads["best_accuracy"].mean),
        ]
        for name, group in comparison.groups.items()
    ]
    return Table("On the test images, after the last epoch", heads, rows)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _pair_table(title: str, pairs: list[MeanDifference], write: Callable[[float], str]) -> Table:
    heads = ["", "difference", "95% interval", "p", "p after Holm", "verdict"]
    rows = [
        [
            f"{pair.second} - {pair.first}",
            write(pair.value),
            span(pair, write) if pair.tested else "-",
            p_word(pair.p_value),
            p_word(pair.adjusted),
            verdict_word(pair),
        ]
        for pair in pairs
    ]
    return Table(title, heads, rows)


def write_comparison(
    folder: Path,
    comparison: Comparison,
    costs: Mapping[str, Costs],
    facts: Mapping[str, str],
) -> None:
    """Write compare.html, compare.json and the plots.

    `facts`: versions, machine, and how costs were measured, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = comparison.groups
    figures = {"Curves": draw_curves({name: group.curves for name, group in groups.items()})}
    if costs:
        accuracies = {name: group.spreads["accuracy"] for name, group in groups.items()}
        label = "test accuracy (%), last epoch"
        trade_offs = draw_trade_offs(accuracies, costs, known_kinds(costs), label)
        figures["Accuracy against cost"] = trade_offs
    for title, figure in figures.items():
        save_plot(figure, folder / title.lower().replace(" ", "_"))
    texts = {"verdicts": verdicts(comparison), "notes": comparison.notes, "facts": facts}
    page = {
        "title": "Comparison of classifiers",
        "tables": tables_of(comparison, costs),
        "plots": {title: figure_uri(figure) for title, figure in figures.items()},
    }
    write_page("classifiers.html", folder / "compare.html", {**page, **texts})
    values = [_group_values(name, groups[name], costs.get(name, {})) for name in groups]
    pairs = {key: [*map(_pair_values, pairs)] for key, pairs in comparison.pairs.items()}
    write_json(folder / "compare.json", {"groups": values, **pairs, **texts})


def _group_values(name: str, group: Group, costs: Costs) -> dict[str, Any]:
    return {
        "name": name,
        "folder": str(group.folder),
        "seeds": [curve.seed for curve in group.curves],
        **{key: asdict(group.spreads[key]) for key in ("accuracy", "loss", "best_accuracy")},
        "costs": costs,
    }


def _pair_values(pair: MeanDifference) -> dict[str, Any]:
    values = asdict(pair)
    values |= {"difference": values.pop("value"), "holm_p_value": values.pop("adjusted")}
    return {**values, "separated": pair.separated}
