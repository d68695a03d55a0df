"""Stop a run at a signal: at once if there is nothing to save, else between two steps."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from sceneparse.errors import Preempted

# SIGUSR1 does not exist on Windows, and SIGBREAK (Ctrl-Break) only there.
_NAMES = {"SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK"}
_SIGNALS = [number for number in signal.Signals if number.name in _NAMES]
_Handler = Callable[[int, FrameType | None], object]


class StopRequest:
    """Records a signal that asks to stop while it is open; a second SIGINT quits at once.

    `name`: of the signal; None before one arrives.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._pid = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = _handle_signals(self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data worker before it sets its own handlers
            return
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            # The system's own handler ends the process anywhere, in a long computation too.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _print_on_main("stopping as soon as the state is saved; Ctrl-C again quits at once")


def leave_at_signals() -> None:
    """End the process with code 75 at a signal from now on, except while a StopRequest is open.

    For phases with nothing to save, such as the start. It does not raise an exception, because
    imports of other packages replace exceptions or continue after them.
    """
    _handle_signals(_leave)
    # Python removes its handlers as it ends; a signal would then change the exit code.
    atexit.register(_handle_signals, signal.SIG_IGN)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    name = signal.Signals(number).name
    _print_on_main(
        f"stopped: {name} received, nothing to save; resume with the same command and --resume"
    )
    os._exit(Preempted.exit_code)


def _handle_signals(handler: _Handler | signal.Handlers) -> dict[signal.Signals, Any]:
    return {number: signal.signal(number, handler) for number in _SIGNALS}


def _print_on_main(text: str) -> None:
    """Write to stderr without buffers or locks, which the interrupted code may be using."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{text}\n".encode())
