"""Errors that are the user's business: each carries one clear line and becomes an exit code.

Exit codes of the tools: 2 configuration, data or user error; 3 numerical abort; 75 stopped by a
signal with the state saved, run again with --resume; 1 a bug of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LONGEST_LINE = 4000


class Explained(Exception):  # noqa: N818 - the base of errors and of a state
    """What a user is told: a line, and a line for each of several problems.

    Names in files may be long, and hold line breaks and commands to terminals: lines are cut at
    4000 characters, and what cannot be printed is escaped.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*(one_line(line[:_LONGEST_LINE]) for line in lines))

    def __str__(self) -> str:
        return "\n  ".join(self.args)


class InputError(Explained, ValueError):
    """A configuration, file or argument that cannot be used; names it and the remedy."""

    exit_code = 2


class NumericalError(Explained, ArithmeticError):
    """Training cannot go on because losses are not finite."""

    exit_code = 3


class Preempted(Explained):
    """A signal asked training to stop; its state is saved and a resumed run goes on from there."""

    exit_code = 75


def one_line(text: object) -> str:
    """Escape line breaks, other control characters and bytes that are no text, as repr does."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def reason_of(error: BaseException) -> str:
    """Say why something failed: in the system's words, or by the first line of a library's."""
    words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(words).splitlines()[0][:200]


@contextmanager
def refusing(source: object, problem: str) -> Iterator[None]:
    """Turn whatever is raised inside into InputError "SOURCE: PROBLEM: reason".

    It belongs around the reading of what others made, and around nothing else: what libraries raise
    on damaged or malicious content depends on the content, and lists of types are never complete.
    """
    try:
        yield
    except Explained:
        raise
    except OSError as error:
        # Libraries raise it for damage too, without a number.
        found = problem if error.errno is None else "cannot be read"
        raise InputError(f"{source}: {found}: {reason_of(error)}") from error
    except MemoryError as error:
        raise InputError(f"{source}: {problem}: it does not fit into memory") from error
    except RecursionError as error:
        raise InputError(f"{source}: {problem}: it is nested too deeply") from error
    except KeyError as error:
        raise InputError(f"{source}: {problem}: {reason_of(error)} is missing") from error
    except Exception as error:
        raise InputError(f"{source}: {problem}: {reason_of(error)}") from error


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """Join the first `limit` names and count the rest, so that a message stays one line."""
    all_names = [str(name) for name in names]
    shown = ", ".join(all_names[:limit])
    hidden = len(all_names) - limit
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> InputError:
    """Build the error for a name that a table does not hold, with the names it does."""
    return InputError(f"unknown {kind} '{given}'; choose one of: {', '.join(sorted(allowed))}")
