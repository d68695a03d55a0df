"""Serve the page to browsers on this machine: its files, predictions, downloads, from memory."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sized
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sceneparse.data.reading import read_image
from sceneparse.demo.results import FILES, Choice
from sceneparse.demo.session import MAX_UPLOAD, Demo
from sceneparse.errors import InputError, reason_of

_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
# The browser itself refuses whatever is not of this server, and keeps nothing.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_UPLOADS_AT_ONCE = 4
_TOO_LARGE = f"over {MAX_UPLOAD >> 20}; make it smaller, or use sceneparse predict"
_JSON = "application/json"


class _RequestError(InputError):
    """A request that is answered with this status of HTTP and a line of text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class DemoServer(ThreadingHTTPServer):
    """Listens at an address as soon as it is made; `serve` answers. Raises InputError."""

    demo: Demo
    # On Windows, reuse would let two servers share a port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, host: str, port: int) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, UnicodeError) as error:
            raise InputError(_why_not(host, port, error)) from error
        self.uploads = threading.BoundedSemaphore(_UPLOADS_AT_ONCE)

    def server_bind(self) -> None:
        """Bind without the base class's question to the network for a name of the address."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def is_local(self) -> bool:
        """Whether programs on this machine alone can connect."""
        return ip_address(self.server_name).is_loopback

    @property
    def url(self) -> str:
        """The address of the page for a browser on this machine."""
        host = self.server_name
        if ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def serve(self, demo: Demo) -> None:
        """Answer until Ctrl-C, then finish the prediction at work."""
        self.demo = demo
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            # Python must not end while a thread computes.
            demo.finish()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base
        """Print a traceback, unless the browser merely went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


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


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; errors become JSON with a line of text."""

    server: DemoServer
    timeout = 60  # seconds without a byte
    server_version, sys_version = "sceneparse", ""

    def do_GET(self) -> None:
        """Send a file of the page, its description, or a download."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Predict the picture in the body, or a sample."""
        self._answer(self._predict)

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal is for problems."""

    def _answer(self, respond: Callable[[str, dict[str, str]], tuple[bytes, str]]) -> None:
        path, _, text = self.path.partition("?")
        query = {k: values[0] for k, values in parse_qs(text, keep_blank_values=True).items()}
        status = 200
        try:
            self._require_own_page()
            content, media_type = respond(path, query)
        except InputError as error:
            status = error.status if isinstance(error, _RequestError) else 422
            content, media_type = _json({"error": str(error)})
        except (ConnectionError, TimeoutError):
            raise  # of the browser, which has left
        except Exception as error:
            traceback.print_exc()
            status = 500
            text = f"it failed unexpectedly: {reason_of(error)}; see the terminal of the command"
            content, media_type = _json({"error": text})
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": media_type}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _require_own_page(self) -> None:
        """Refuse requests that pages of other sites make a browser send."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        # A name of another site may lead to this machine.
        known = {"localhost", "127.0.0.1", "::1", self.server.server_name}
        if self.server.is_local and _host_name(host) not in known:
            raise _RequestError(403, f"open the page as {self.server.url}")
        if origin is not None and origin.partition("://")[2] != host:
            raise _RequestError(403, "only the page itself can ask for this")

    def _get(self, path: str, query: dict[str, str]) -> tuple[bytes, str]:
        if path in _PAGE:
            name, media_type = _PAGE[path]
            return (resources.files(__package__) / name).read_bytes(), media_type
        if path == "/description":
            return _json(self.server.demo.description())
        match path.split("/"):
            case ["", "results", key, model, kind] if kind in FILES:
                names = self.server.demo.names
                return self.server.demo.file(key, _index(model, names), kind, _choice(query))
        raise _RequestError(404, "there is no such page")

    def _predict(self, path: str, query: dict[str, str]) -> tuple[bytes, str]:
        demo, samples = self.server.demo, self.server.demo.samples.pictures
        if path != "/predict":
            raise _RequestError(404, "there is no such page")
        if "sample" in query:
            sample = samples[_index(query["sample"], samples)]
            return _json(demo.predict(sample.name, sample.load))
        # The part after the last slash, of whatever system.
        name = query.get("name", "").replace("\\", "/").rpartition("/")[2] or "picture"
        with self.server.uploads:
            load = partial(read_image, Path(name), content=self._body())
            return _json(demo.predict(name, load))

    def _body(self) -> bytes:
        length = _number(self.headers.get("Content-Length", ""))
        if length is None:
            raise _RequestError(411, "the request does not tell its length")
        if length > MAX_UPLOAD:
            raise _RequestError(413, f"the file has {length / 2**20:.0f} MB, {_TOO_LARGE}")
        content = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionResetError("the browser went away")
        return content


def _json(value: Any) -> tuple[bytes, str]:  # noqa: ANN401 - anything of JSON
    return json.dumps(value, allow_nan=False).encode(), _JSON


def _host_name(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _number(text: str) -> int | None:
    """Read a whole number of at most 15 digits; None if it is none."""
    return int(text) if text.isdecimal() and len(text) <= 15 else None


def _index(text: str, of: Sized) -> int:
    """Read a number in 0..len-1; raises InputError."""
    number = _number(text)
    if number is None or number >= len(of):
        raise _RequestError(404, f"number {text} does not exist; there are {len(of)}, from 0")
    return number


def _choice(query: dict[str, str]) -> Choice:
    """Read the opacity and the hidden classes (numbers with commas) of an overlay."""
    hidden = query.get("hidden")
    try:
        opacity = float(query.get("opacity", "0.5"))
        numbers = None if hidden is None else {int(part) for part in hidden.split(",") if part}
    except ValueError:
        opacity, numbers = -1.0, None
    if not 0 <= opacity <= 1:
        raise InputError("opacity must be in 0..1, and hidden a list of class numbers: 0,3,7")
    return Choice(opacity, numbers)
