"""What the user's shell takes and shows: quoted commands, and text of any alphabet."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterable

# What neither cmd nor PowerShell gives a meaning.
_PLAIN = re.compile(r"[\w\\/:.=+~-]+")


def command_line(words: Iterable[str]) -> str:
    """Return a command that can be pasted into a shell: of Windows there, POSIX elsewhere."""
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """Quote a word of a command if the shell needs it; on Windows for cmd and PowerShell."""
    return _quoted_for_windows(word) if sys.platform == "win32" else shlex.quote(word)


def _quoted_for_windows(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    # Programs on Windows read a backslash as such, unless a quotation mark follows.
    inner = re.sub(r'(\\*)"', r'\1\1\\"', word)
    return '"' + re.sub(r"(\\+)$", r"\1\1", inner) + '"'


def escape_unprintable() -> None:
    """Let stdout print signs that its encoding lacks as escaped numbers, instead of failing.

    Consoles and redirected output of Windows hold few alphabets, and names may hold bytes that are
    no text.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
