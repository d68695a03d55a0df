"""Log lines and progress with rate and time left, on the terminal."""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_SECONDS_PER_LINE = 15.0


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


def log_on_main() -> None:
    """Print the package's log lines on stdout, in the main process only; for commands.

    Without this call the package prints nothing unless the program that uses it configures
    `logging`. A second call changes nothing.
    """
    logger = logging.getLogger("sceneparse")
    logger.setLevel(logging.INFO)
    # Libraries that configure the root logger would print every line a second time.
    logger.propagate = False
    logger.addHandler(_terminal)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print log lines on stderr, where progress is shown, instead of stdout."""
    _terminal.stream_name = "stderr"
    try:
        yield
    finally:
        _terminal.stream_name = "stdout"


class Progress:
    """Shows position, rate and time left: a bar on a terminal, else a line every 15 seconds.

    `total`: units of the whole job; None: unknown. `done`: units that a resumed run had finished,
    in `seconds`. `quiet`: show nothing. `most_left`: the most seconds that are left.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        seconds: float = 0.0,
        quiet: bool = False,
        most_left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._total, self._unit, self._count, self._first = total, unit, done, done
        self._seconds_before, self._quiet, self._most_left = seconds, quiet, most_left
        self._start = self._last_line = time.monotonic()
        hidden = quiet or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit=unit, leave=False, disable=hidden)

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more units; `note` is shown beside the position."""
        self._count += amount
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(amount)
        if self._bar.disable and time.monotonic() - self._last_line > _SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            of, left = "", ""
            if self._total is not None:
                of = f"/{self._total}"
                seconds = min((self._total - self._count) / self.rate, self._most_left())
                left = f"  {format_seconds(seconds)} left"
            self.write(f"{note}  {self._count}{of} {self._unit}  {self.rate:.1f}/s{left}")

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
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()


def format_seconds(seconds: float) -> str:
    """Format a duration: 45s, 3m20s, 2h05m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
