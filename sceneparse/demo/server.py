"""Serve a page to browsers, and refuse what other sites make them ask."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from urllib.parse import urlsplit

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sceneparse.demo.local import Address
from sceneparse.demo.page import MAX_UPLOAD, create_page, style
from sceneparse.demo.session import Demo
from sceneparse.errors import InputError, one_line, reason_of

_LOCAL = {"localhost", "127.0.0.1", "::1"}
# Shared pages are reached through a host below this name.
_SHARED = ".gradio.live"
# The browser itself refuses whatever is not of this server, and keeps nothing.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@contextmanager
def served(demo: Demo, address: Address, *, share: bool = False) -> Iterator[str | None]:
    """Answer browsers; at the end, finish the prediction at work. See `temporary_files`.

    `share`: also make an address for the whole internet, through Gradio's servers; it is what
    `with` gives, None otherwise. Raises InputError if there can be no such address, or no page.
    """
    page = create_page(demo, share=share)
    try:
        yield _launch(page, demo, address, share=share)
    finally:
        # Python must not end while a thread computes.
        demo.finish()
        page.close(verbose=False)


def wait_for_end() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)


def _launch(page: gr.Blocks, demo: Demo, address: Address, *, share: bool) -> str | None:
    """Start the server; return its address for the internet. Raises InputError."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            page.launch(
                prevent_thread_lock=True,
                quiet=True,
                share=share,
                server_name=f"[{address.host}]" if ":" in address.host else address.host,
                server_port=address.port,
                root_path="",
                max_file_size=MAX_UPLOAD,
                # Visitors whose results are kept.
                state_session_capacity=8,
                # Neither programs beside this one, nor records of what was shown.
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                css=style(demo),
                # Gradio's own fonts come from the internet.
                theme=gr.themes.Default(
                    primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["monospace"]
                ),
                app_kwargs={"middleware": [Middleware(_Guard, address=address, share=share)]},
            )
    except (OSError, ValueError) as error:
        raise InputError(f"the page cannot be served: {one_line(reason_of(error))}") from error
    if share and page.share_url is None:
        raise InputError(f"no share link could be made: {one_line(said.getvalue().strip())}")
    public: str | None = page.share_url
    return public


class _Guard:
    """Refuses what other sites make a browser ask, and lets the page load nothing of others."""

    def __init__(self, app: ASGIApp, address: Address, *, share: bool) -> None:
        self.app = app
        self.address = address
        self.share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with status 403 and a line of text."""

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app: ASGIApp = self.app
        if scope["type"] == "http" and (problem := self._problem(Headers(scope=scope))):
            app = PlainTextResponse(problem, 403)
        await app(scope, receive, send_protected)

    def _problem(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        # A name of another site may lead to this machine.
        known = _host_name(host) in {*_LOCAL, self.address.host} or self._is_shared(host)
        if self.address.is_local and not known:
            return f"open the page as {self.address.url}"
        sender = host if origin is None else origin.partition("://")[2]
        if sender != host and not self._is_shared(sender):
            return "only the page itself can ask for this"
        return None

    def _is_shared(self, host: str) -> bool:
        return self.share and (_host_name(host) or "").endswith(_SHARED)


def _host_name(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None
