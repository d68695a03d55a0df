"""Signals that ask a run to stop: they set a flag that the training loop looks at between steps."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Remembers SIGTERM, SIGINT or SIGUSR1; a second SIGINT quits at once."""

    def __init__(self) -> None:
        self.name: str | None = None

    def listen(self) -> StopRequest:
        """Install the handlers, in the main thread."""
        for number in _SIGNALS:
            signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
