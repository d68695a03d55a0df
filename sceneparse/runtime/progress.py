"""Progress of a long job: position, rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

_SECONDS_PER_LINE = 15.0


class Progress:
    """A bar on a terminal, a plain line every 15 seconds elsewhere: position, rate, time left.

    `done` units of `total` were finished in `seconds` before, as when a run goes on.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        seconds: float = 0.0,
        quiet: bool = False,
    ) -> None:
        self._total, self._unit, self._count, self._first = total, unit, done, done
        self._seconds_before = seconds
        self._start = self._said = time.monotonic()
        self._quiet = quiet
        bar = not quiet and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit=unit, leave=False) if bar else None

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more units; `note` is shown beside the position."""
        self._count += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._said > _SECONDS_PER_LINE:
            self._said = time.monotonic()
            self.say(f"{note}  {self._position}")

    @property
    def _position(self) -> str:
        if self._total is None:
            return f"{self._count} {self._unit}  {self.rate:.1f}/s"
        left = format_seconds((self._total - self._count) / self.rate)
        return f"{self._count}/{self._total} {self._unit}  {self.rate:.1f}/s  {left} left"

    @property
    def seconds(self) -> float:
        """Seconds of work, those before and without pauses."""
        return self._seconds_before + time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second."""
        elapsed = max(time.monotonic() - self._start, 1e-6)
        return max(self._count - self._first, 1e-6) / elapsed

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the time of other work, such as validation, out of rate and seconds."""
        before = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - before

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


def format_seconds(seconds: float) -> str:
    """Write a duration as people do: 45s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
