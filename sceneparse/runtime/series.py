"""The position in a whole command of several runs, in front of all its status lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sceneparse.runtime.progress import Progress, format_seconds

# Smaller shares of a run tell too little about the time that all take.
_MIN_SHARE = 0.005


@contextmanager
def in_front(describe: Callable[[float | None], str]) -> Iterator[None]:
    """Show what `describe` returns in front of all status lines.

    It is called with the share of the current run that is done, None if the line does not know it.
    """
    before, Progress.front = Progress.front, describe
    try:
        yield
    finally:
        Progress.front = before


class Series:
    """Runs that follow each other, as status lines show them: "run 3 of 12 (2h05m left)".

    `noun`: what a run is called. The time left is that of all unfinished runs, if they take as long
    as those before them in this process. A run alone has no position.
    """

    def __init__(self, noun: str, total: int) -> None:
        self._noun, self._total = noun, total
        self._start = time.monotonic()
        self._number, self._unfinished = 0, 0
        self._before = self._share = 0.0  # runs in this process, and share of the current one
        self._resumed_at: float | None = None

    def begin(self, number: int, unfinished: int) -> None:
        """Begin a run, from 1; `unfinished`: how many runs are not finished, with this one."""
        if self._resumed_at is not None:
            self._before += 1 - self._resumed_at
        self._number, self._unfinished = number, unfinished
        self._share, self._resumed_at = 0.0, None

    def describe(self, share: float | None = None) -> str:
        """Return the position and the time left; `share`: of the current run that is done."""
        if share is not None:
            self._share = share
            if self._resumed_at is None:
                self._resumed_at = share
        if self._total == 1:
            return ""
        text = f"{self._noun} {self._number} of {self._total}"
        done = self._before + self._share - (self._resumed_at or 0.0)
        if done < _MIN_SHARE:
            return text
        seconds = (time.monotonic() - self._start) / done * (self._unfinished - self._share)
        return f"{text} ({format_seconds(seconds)} left)"
