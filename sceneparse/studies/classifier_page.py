"""A comparison of classifiers in words, tables and files: page, Markdown, CSV, JSON, plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sceneparse.metrics.significance import MeanDifference
from sceneparse.report.pages import figure_uri, write_page
from sceneparse.report.plots import save_plot
from sceneparse.report.tables import (
    Table,
    p_word,
    plain,
    points,
    span,
    verdict_word,
    write_csv,
    write_json,
)
from sceneparse.studies.classifiers import Comparison
from sceneparse.studies.costs import Costs, cost_table, draw_trade_offs
from sceneparse.studies.seeds import draw_curves

_TITLE = "Comparison of classifiers"
_SPREADS = ("accuracy", "loss", "best_accuracy")


def verdicts(comparison: Comparison) -> list[str]:
    """Put into plain words how each group does against the first, and what the words rest on."""
    lines = [_verdict(pair) for pair in comparison.gains]
    pairs = sum(pair.tested for pair in comparison.pairs["accuracy"])
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
    chance = f"95% interval {span(pair)}, p {p_word(pair.adjusted)} after Holm"
    better = f": {'better' if pair.value > 0 else 'worse'}" if pair.separated else ""
    return f"{gain} ({chance}); {verdict_word(pair)}{better}."


def tables_of(comparison: Comparison, costs: Mapping[str, Costs]) -> list[Table]:
    """Lay out all tables that have rows: scores, pairs, costs."""
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
    """Write compare.html, .md, .json, groups.csv, pairs.csv and the plots.

    `facts` tell how it came about: versions, machine, how costs were measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = _as_dict(comparison, costs, facts)
    write_json(folder / "compare.json", values)
    write_csv(folder / "groups.csv", plain([*map(_flat, values["groups"])]))
    pairs = [{"measure": key, **pair} for key in comparison.pairs for pair in values[key]]
    if pairs:
        write_csv(folder / "pairs.csv", plain(pairs))
    groups = comparison.groups
    figures = {"Curves": draw_curves({name: group.curves for name, group in groups.items()})}
    if costs:
        accuracies = {name: group.spreads["accuracy"] for name, group in groups.items()}
        figures["Accuracy against cost"] = draw_trade_offs(accuracies, costs)
    for title, figure in figures.items():
        save_plot(figure, folder / title.lower().replace(" ", "_"))
    page = {
        "title": _TITLE,
        "verdicts": values["verdicts"],
        "notes": comparison.notes,
        "tables": tables_of(comparison, costs),
        "plots": {title: figure_uri(figure) for title, figure in figures.items()},
        "facts": facts,
    }
    write_page("classifiers.html", folder / "compare.html", page)
    (folder / "compare.md").write_text(_markdown(page), encoding="utf-8")


def _as_dict(
    comparison: Comparison, costs: Mapping[str, Costs], facts: Mapping[str, str]
) -> dict[str, Any]:
    groups = [
        {
            "name": name,
            "folder": str(group.folder),
            "seeds": [curve.seed for curve in group.curves],
            **{key: asdict(group.spreads[key]) for key in _SPREADS},
            "costs": costs.get(name, {}),
        }
        for name, group in comparison.groups.items()
    ]
    pairs = {key: [*map(_pair_values, pairs)] for key, pairs in comparison.pairs.items()}
    words = {"verdicts": verdicts(comparison), "notes": comparison.notes, "facts": facts}
    return {"groups": groups, **pairs, **words}


def _pair_values(pair: MeanDifference) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": pair.value,
        "low": pair.low,
        "high": pair.high,
        "p_value": pair.p_value,
        "holm_p_value": pair.adjusted,
        "separated": pair.separated,
    }


def _flat(group: Mapping[str, Any]) -> dict[str, Any]:
    spreads = {
        f"{key}_{of}": value
        for key in _SPREADS
        for of, value in group[key].items()
        if of != "values"
    }
    return {"name": group["name"], "seeds": len(group["seeds"]), **spreads, **group["costs"]}


def _markdown(page: Mapping[str, Any]) -> str:
    parts = [f"# {page['title']}", "\n".join(f"- {x}" for x in page["verdicts"] + page["notes"])]
    for table in page["tables"]:
        parts += [f"## {table.title}", table.as_markdown()]
    parts += ["\n".join(f"- {name}: {value}" for name, value in page["facts"].items())]
    return "\n\n".join(part for part in parts if part) + "\n"
