"""The wall-clock time that `sceneparse auto` has, and what it is spent on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sceneparse.errors import InputError
from sceneparse.runtime.progress import format_seconds

_UNITS = {"s": 1, "m": 60, "h": 3600}


def read_time(text: str) -> float:
    """Return the seconds of "90s", "20m", "2h" or "1h30m"; a sign + is ignored.

    Raises InputError.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not re.fullmatch(r"\+?(\d+(\.\d+)?[smh])+", text) or not seconds:
        raise InputError(f"--time takes a time such as 90s, 20m or 1h30m, got '{text}'")
    return seconds


@dataclass
class Budget:
    """A number of seconds, counted from `started`, in seconds since 1970.

    `used_before`: seconds of earlier calls of a job that was interrupted. `phases`: the seconds of
    each phase so far, by name.
    """

    seconds: float
    started: float
    used_before: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.time

    @property
    def used(self) -> float:
        """Seconds that are used."""
        return self.used_before + self.clock() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left; negative after the end."""
        return self.seconds - self.used

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of what is done inside to the phase `name`, and print it."""
        before = self.used
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + self.used - before

    def describe(self, _: object = None) -> str:
        """Return what is left of the whole time, for the front of status lines."""
        return f"{format_seconds(max(self.left, 0))} of {format_seconds(self.seconds)} left"

    def __str__(self) -> str:
        return f"{format_seconds(self.used)} of {format_seconds(self.seconds)} used"
