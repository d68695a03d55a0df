"""Errors that are the user's business: each carries one clear line and becomes an exit code.

Exit codes of the tools: 2 configuration, data or user error; 3 numerical abort; 75 stopped by a
signal with the state saved, run again with --resume; 1 a bug of ours.
"""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """A configuration, file or argument that cannot be used; names it and the remedy."""

    exit_code = 2


class NumericalError(ArithmeticError):
    """Training cannot go on because losses are not finite."""

    exit_code = 3


class Preempted(Exception):  # noqa: N818 - a state, not a failure
    """A signal asked training to stop; its state is saved and a resumed run goes on from there."""

    exit_code = 75


def first_few(names: Iterable[object], limit: int = 5) -> str:
    """Join the first `limit` names and count the rest, so that a message stays one line."""
    all_names = [str(name) for name in names]
    shown = ", ".join(all_names[:limit])
    hidden = len(all_names) - limit
    return f"{shown} and {hidden} more" if hidden > 0 else shown


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> InputError:
    """Build the error for a name that a table does not hold, with the names it does."""
    return InputError(f"unknown {kind} '{given}'; choose one of: {', '.join(sorted(allowed))}")
