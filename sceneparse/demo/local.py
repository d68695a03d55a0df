"""Where the page is on this machine: its address, and its files while it is shown."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from sceneparse.errors import InputError, reason_of


@dataclass(frozen=True)
class Address:
    """Where a page listens: an address of this machine, and a port that was free."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether programs on this machine alone can connect."""
        return ip_address(self.host).is_loopback

    @property
    def url(self) -> str:
        """The address of the page for a browser on this machine."""
        host = self.host
        if ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"


def free_address(host: str, port: int) -> Address:
    """Find out whether a page can listen there; port 0: any free one. Raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as free:
            return Address(*free.getsockname()[:2])
    except (OSError, UnicodeError) as error:
        raise InputError(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; give another --port, or --port 0 for a free one"
    if number == errno.EACCES:
        return f"port {port} is for administrators only; give --port 1024 or more"
    return (
        f"cannot listen at --host '{host}': {reason_of(error)}; give an address of this machine, "
        "such as 127.0.0.1"
    )


@contextmanager
def temporary_files() -> Iterator[None]:
    """Let Gradio keep its files in a folder that is deleted at the end, also by a signal.

    It must be open before Gradio is imported. Gradio asks its own server without a proxy then, and
    finds no settings of others in the environment: they could open files of this machine.
    """
    unproxied = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    others: dict[str, str | None] = {n: None for n in os.environ if n.startswith("GRADIO_")}
    with (
        tempfile.TemporaryDirectory(prefix="sceneparse-demo-") as folder,
        _environment(
            {
                **others,
                "GRADIO_TEMP_DIR": folder,
                "no_proxy": f"{unproxied},localhost,127.0.0.1,::1",
            }
        ),
        _interrupted_by_signals(),
    ):
        yield


@contextmanager
def _environment(changed: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of the environment for a while, or remove those that are None."""
    before = {name: os.environ.get(name) for name in changed}
    _set_variables(changed)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM, and the end of a terminal, do what Ctrl-C does, so that files are deleted."""
    names = {"SIGTERM", "SIGHUP"}  # Windows has no SIGHUP, and nohup ignores it
    numbers = [number for number in signal.Signals if number.name in names]
    ended = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in ended}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
