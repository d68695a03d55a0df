"""A table of words, laid out as plain text, Markdown and CSV; pages show the same cells."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV; None becomes an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
