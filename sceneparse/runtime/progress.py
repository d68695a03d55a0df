"""Log lines and progress with rate and time left, on the terminal."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

# Without a terminal, and on one.
_SECONDS_PER_LINE, _SECONDS_PER_DRAWING = 15.0, 0.1


class _TerminalHandler(logging.Handler):
    """Prints log lines of the main process, above the progress bar if there is one."""

    stream_name = "stdout"

    def emit(self, record: logging.LogRecord) -> None:
        if os.environ.get("RANK", "0") == "0":
            # Looked up each time, since redirect_stdout and tests exchange the streams.
            stream = getattr(sys, self.stream_name)
            tqdm.write(self.format(record), file=stream)
            stream.flush()


_terminal = _TerminalHandler()


def log_on_main(*, quiet: bool = False) -> None:
    """Print the package's log lines on stdout, in the main process only; for commands.

    `quiet`: print only warnings, on stderr, and no progress. Without this call the package prints
    nothing unless the program that uses it configures `logging`. A second call replaces the first.
    """
    logger = logging.getLogger("sceneparse")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    # Libraries that configure the root logger would print every line a second time.
    logger.propagate = False
    logger.addHandler(_terminal)
    _terminal.stream_name = "stderr" if quiet else "stdout"
    Progress.hidden = quiet


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print log lines on stderr, where progress is shown, instead of stdout."""
    before, _terminal.stream_name = _terminal.stream_name, "stderr"
    try:
        yield
    finally:
        _terminal.stream_name = before


class Progress:
    """Shows how far a job is: a bar on a terminal, else a line every 15 seconds, on stderr.

    Both read "evaluate  12/40 images  3.4 images/s  8s left  mean IoU 0.5120": `phase`, position in
    `total` (None: unknown) `unit`, rate, time left, and what `note` returns; it is called only when
    the line is shown. `done`: units that a resumed run had finished, in `seconds`. `quiet`: show
    nothing. `most_left`: the most seconds that are left. `is_run`: its share is that of a run, for
    the text in front of it (runtime/series.py). Use it as a context manager, or close it.
    """

    hidden: ClassVar[bool] = False  # for all, by log_on_main
    front: ClassVar[Callable[[float | None], str] | None] = None

    def __init__(  # noqa: PLR0913 - what it shows, and where it starts
        self,
        phase: str,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        seconds: float = 0.0,
        quiet: bool = False,
        most_left: Callable[[], float] = lambda: math.inf,
        note: Callable[[], str] = str,
        is_run: bool = False,
    ) -> None:
        self.note = note
        self._phase, self._total, self._unit = phase, total, unit
        self._count, self._first, self._seconds_before = done, done, seconds
        self._most_left, self._hidden = most_left, quiet or self.hidden
        self._is_run = is_run
        self._start = self._shown = time.monotonic()
        no_bar = self._hidden or not sys.stderr.isatty()
        self._interval = _SECONDS_PER_LINE if no_bar else _SECONDS_PER_DRAWING
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=self._line(),
            bar_format="{desc}" if total is None else "{bar:20} {desc}",
            leave=False,
            dynamic_ncols=True,
            disable=no_bar,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more units."""
        self._count += amount
        now = time.monotonic()
        if self._hidden or now - self._shown < self._interval:
            return
        self._shown = now
        if self._bar.disable:
            self.write(self._line())
        else:
            self._bar.n = self._count
            self._bar.set_description_str(self._line())

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items; count each one when it is done."""
        for item in items:
            yield item
            self.advance()

    def _line(self) -> str:
        """Return the text in front, phase, position, rate, time left and note."""
        share = self._count / self._total if self._is_run and self._total else None
        front = "" if Progress.front is None else Progress.front(share)
        of = "" if self._total is None else f"/{self._total}"
        parts = [front, self._phase, f"{self._count}{of} {self._unit}"]
        if self._count > self._first:
            parts.append(f"{_short(self.rate)} {self._unit}/s")
            if self._total is not None:
                seconds = min((self._total - self._count) / self.rate, self._most_left())
                parts.append(f"{format_seconds(max(seconds, 0))} left")
        return "  ".join(part for part in [*parts, self.note()] if part)

    def change_total(self, total: int) -> None:
        """Count towards another total."""
        self._total = self._bar.total = total

    @property
    def seconds(self) -> float:
        """Seconds of work without pauses, including those before the run was resumed."""
        return self._seconds_before + time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second."""
        elapsed = max(time.monotonic() - self._start, 1e-6)
        return max(self._count - self._first, 1e-6) / elapsed

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of other work, such as validation, from rate and seconds."""
        before = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - before

    def write(self, text: str) -> None:
        """Print a line on stderr, above the bar."""
        if not self._hidden:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()


def _short(rate: float) -> str:
    """Format a rate with two or three digits: 0.021, 3.4, 120."""
    return f"{rate:.2g}" if rate < 1 else f"{rate:.{int(rate < 100)}f}"


def format_seconds(seconds: float) -> str:
    """Format a duration: 45s, 3m20s, 2h05m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
