"""Read tables that others made: CSV, or lists separated by tabs, semicolons, commas or spaces."""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sceneparse.errors import InputError, refusing
from sceneparse.files import MAX_TEXT, read_text

TABLE_SUFFIXES = (".txt", ".lst", ".csv", ".tsv")
_SEPARATORS = ("\t", ";", ",", " ")


class Row(NamedTuple):
    """A row of a table: the number of its line from 1, and its cells without outer spaces."""

    line: int
    cells: list[str]


def read_rows(path: Path, limit: int = MAX_TEXT) -> list[Row]:
    """Read the rows of a table, without empty lines and lines that start with #.

    The separator is the first of tab, semicolon, comma and space that gives all rows equally many
    cells, at least two; cells may be quoted. Without one, rows differ in length. A header is an
    ordinary row. Raises InputError.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(read_text(path, limit).splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    for separator in _SEPARATORS:
        rows = _split(path, lines, separator)
        if rows and len(rows[0].cells) > 1 and len({len(row.cells) for row in rows}) == 1:
            return rows
    return [
        _split(path, [line], next((mark for mark in _SEPARATORS if mark in line[1]), " "))[0]
        for line in lines
    ]


def _split(path: Path, lines: Sequence[tuple[int, str]], separator: str) -> list[Row]:
    rows = []
    for number, line in lines:
        with refusing(f"{path}, line {number}", "cannot be read as a table"):
            text = re.sub(r"\s+", " ", line) if separator == " " else line
            (cells,) = csv.reader([text], delimiter=separator, skipinitialspace=True)
        rows.append(Row(number, [cell.strip() for cell in cells]))
    return rows


def find_columns(
    header: Sequence[str], names: Mapping[str, Collection[str]], path: Path
) -> dict[str, int] | None:
    """Return the place of each column of `names` in a header; None if it does not have them all.

    `names` gives the other names that a column may have. Capitals, spaces and signs are ignored.
    Raises InputError naming `path` if a column is there twice.
    """
    written = [_letters(cell) for cell in header]
    places = {}
    for name, others in names.items():
        found = [k for k, cell in enumerate(written) if cell == _letters(name)]
        found = found or [k for k, cell in enumerate(written) if cell in map(_letters, others)]
        if not found:
            return None
        if len(found) > 1:
            raise InputError(f"{path}: two columns could be '{name}': {', '.join(header)}")
        places[name] = found[0]
    return places


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())
