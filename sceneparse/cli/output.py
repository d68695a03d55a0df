"""What a command leaves on the terminal: its summary; with --quiet a line, with --json JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sceneparse.errors import one_line
from sceneparse.runtime.shell import command_line, quoted


@dataclass(frozen=True)
class _Results:
    """How the running command prints its result; `stream`: None for stdout as it is then."""

    stream: TextIO | None = None
    quiet: bool = False
    as_json: bool = False


_results = _Results()


@contextmanager
def results_only(*, quiet: bool, as_json: bool) -> Iterator[None]:
    """Keep stdout for the result, if one of the two is set, while a command runs.

    Everything else that is printed goes to stderr, or with `quiet` nowhere.
    """
    global _results  # noqa: PLW0603 - as there is one stdout
    before, _results = _results, _Results(sys.stdout, quiet, as_json)
    try:
        with ExitStack() as stack:
            if quiet:
                nowhere = stack.enter_context(
                    Path(os.devnull).open("w", encoding="utf-8", errors="replace")
                )
                stack.enter_context(redirect_stdout(nowhere))
            elif as_json:
                stack.enter_context(redirect_stdout(sys.stderr))
            yield
    finally:
        _results = before


def print_result(text: str) -> None:
    """Print text that is the result of the command, also with --quiet."""
    print(text, end="", file=_results.stream, flush=True)


def print_document(value: Mapping[str, Any] | Path) -> None:
    """With --json print the one document of the command: plain values, or what a JSON file holds.

    Without --json do nothing. NaN becomes null.
    """
    if _results.as_json:
        from sceneparse.report.tables import plain

        content = json.loads(value.read_bytes()) if isinstance(value, Path) else value
        # In ASCII, which every encoding of a terminal can write.
        print_result(json.dumps(plain(content), indent=1) + "\n")


def print_summary(verb: str, rows: Mapping[str, object], then: Sequence[str] = ()) -> None:
    """Print the summary of a command: its result, the paths that matter, and the next command.

    `rows`: values by heading, the result first. `then`: the words of the next command. Words and
    paths are quoted as a shell needs them. On a terminal the summary stands between two lines, with
    nothing at its sides, so that commands can be copied. With --quiet only the result is printed,
    with --json nothing on stdout.
    """
    lines = lines_of(rows)
    if _results.quiet:
        if not _results.as_json:
            print_result(lines[0] + "\n")
        return
    if then:
        lines += lines_of({"next": command_line(then)})
    if sys.stdout.isatty():
        dash = "\u2500" if (sys.stdout.encoding or "").lower().startswith("utf") else "-"
        width = min(max(map(len, lines)), shutil.get_terminal_size().columns)
        lines = [f"{dash * 2} {verb} ".ljust(width, dash), *lines, dash * width]
    print("\n" + "\n".join(lines), flush=True)


def lines_of(rows: Mapping[str, object]) -> list[str]:
    """Return a line per row: heading and value; paths are quoted as a shell needs them."""
    shown = {k: quoted(str(v)) if isinstance(v, Path) else v for k, v in rows.items()}
    return [f"{heading:<12} {one_line(value)}" for heading, value in shown.items()]
