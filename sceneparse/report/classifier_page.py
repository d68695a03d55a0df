"""Everything a comparison of classifiers found, as files: page, Markdown, CSV, JSON, plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sceneparse.report.classifier_tables import (
    as_values,
    group_records,
    pair_records,
    pair_tables,
    score_table,
    verdicts,
)
from sceneparse.report.classifiers import Comparison
from sceneparse.report.costs import Costs, cost_table, draw_trade_offs
from sceneparse.report.layout import Table, write_csv
from sceneparse.report.pages import figure_uri, write_page
from sceneparse.report.plots import save_plot
from sceneparse.report.seeds import draw_curves


def tables_of(comparison: Comparison, costs: Mapping[str, Costs]) -> list[Table]:
    """All tables that have rows: scores, pairs, costs."""
    tables = [score_table(comparison), *pair_tables(comparison)]
    if costs:
        tables.append(cost_table(comparison, costs))
    return [table for table in tables if table.rows]


def write_comparison(
    folder: Path,
    comparison: Comparison,
    costs: Mapping[str, Costs],
    facts: Mapping[str, str],
) -> None:
    """Write compare.html, .md, .json, groups.csv, pairs.csv and the plots.

    `facts` say how it came about: versions, machine, how costs were measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = as_values(comparison, costs, facts)
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (folder / "compare.json").write_text(text, encoding="utf-8")
    (folder / "compare.md").write_text(_markdown(comparison, costs, facts), encoding="utf-8")
    write_csv(folder / "groups.csv", group_records(comparison, costs))
    if comparison.accuracy:
        write_csv(folder / "pairs.csv", pair_records(comparison))
    curves = {name: group.curves for name, group in comparison.groups.items()}
    figures = {"Curves": draw_curves(curves)}
    if costs:
        figures["Accuracy against cost"] = draw_trade_offs(comparison, costs)
    for title, figure in figures.items():
        save_plot(figure, folder / title.lower().replace(" ", "_"))
    page = {
        "title": "Comparison of classifiers",
        "verdicts": verdicts(comparison),
        "notes": comparison.notes,
        "tables": tables_of(comparison, costs),
        "plots": {title: figure_uri(figure) for title, figure in figures.items()},
        "facts": facts,
    }
    write_page("classifiers.html", folder / "compare.html", page)


def _markdown(comparison: Comparison, costs: Mapping[str, Costs], facts: Mapping[str, str]) -> str:
    parts = ["# Comparison of classifiers"]
    parts += ["\n".join(f"- {line}" for line in [*verdicts(comparison), *comparison.notes])]
    for table in tables_of(comparison, costs):
        parts += [f"## {table.title}", table.as_markdown()]
    parts += ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    return "\n\n".join(part for part in parts if part) + "\n"
