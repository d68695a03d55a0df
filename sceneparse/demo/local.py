"""Where the page is on this machine: its address, and its files while it is shown."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
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
    """Let Gradio keep its files in a folder that is deleted at the end, at SIGTERM too.

    It must be open before Gradio is imported. Gradio asks its own server without a proxy then.
    """
    unproxied = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    with (
        tempfile.TemporaryDirectory(prefix="sceneparse-demo-") as folder,
        _environment(GRADIO_TEMP_DIR=folder, no_proxy=f"{unproxied},localhost,127.0.0.1,::1"),
        _ended_by_sigterm(),
    ):
        yield


@contextmanager
def _environment(**changed: str) -> Iterator[None]:
    """Set variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that files are deleted."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
