"""Errors that the user can mend: each has one clear line and becomes an exit code.

Exit codes: 2 wrong configuration, data or argument; 3 losses not finite; 75 stopped by a signal
after saving, continue with --resume; 1 a bug of ours.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_MAX_LINE = 4000
_MAX_WINDOWS_PATH = 259


class Explained(Exception):  # noqa: N818 - the base of errors and of a state
    """The base of our errors: a line of text, or one per problem.

    Names in files may be long or contain terminal commands: lines are cut at 4000 characters, and
    characters that cannot be printed are escaped.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*(one_line(line[:_MAX_LINE]) for line in lines))

    def __str__(self) -> str:
        return "\n  ".join(self.args)


class InputError(Explained, ValueError):
    """A configuration, file or argument is wrong; the message names it and the remedy."""

    exit_code = 2


class NumericalError(Explained, ArithmeticError):
    """Training cannot continue because losses are not finite."""

    exit_code = 3


class Preempted(Explained):
    """A signal stopped training; its state is saved and the run can be resumed."""

    exit_code = 75


def one_line(text: object) -> str:
    """Escape line breaks and other characters that cannot be printed, as repr does."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def reason_of(error: BaseException) -> str:
    """Return why something failed: the first line of the message, or the type of the error."""
    file = getattr(error, "filename", None)
    if sys.platform == "win32" and file and len(os.path.abspath(file)) > _MAX_WINDOWS_PATH:  # noqa: PTH100
        # Windows itself says that there is no such file.
        return (
            f"its path is longer than {_MAX_WINDOWS_PATH} characters, which Windows does not allow "
            "unless long paths are enabled; choose a folder with a shorter path"
        )
    message = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(message).splitlines()[0][:200]


@contextmanager
def refusing(source: object, problem: str) -> Iterator[None]:
    """Turn any exception inside into InputError "SOURCE: PROBLEM: reason".

    Use it only around the reading of files that others made: which exceptions libraries raise on
    damaged or malicious files depends on the content, and no list of types is complete.
    """
    try:
        yield
    except Explained:
        raise
    except Exception as error:
        reason = reason_of(error)
        if isinstance(error, MemoryError):
            reason = "it does not fit into memory"
        elif isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif isinstance(error, KeyError):
            reason = f"{reason} is missing"
        elif isinstance(error, OSError) and error.errno is not None:  # libraries give no number
            problem = "cannot be read"
        raise InputError(f"{source}: {problem}: {reason}") from error


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """Join the first `limit` names and count the rest: "a, b and 3 more"."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a table, with the names that are."""
    return InputError(f"unknown {kind} '{given}'; choose one of: {', '.join(sorted(allowed))}")


def not_installed(package: str, extra: str) -> InputError:
    """Return the error that an optional package is missing; `extra`: what installs it."""
    return InputError(f"{package} is not installed; run: pip install 'sceneparse[{extra}]'")
