"""Open pages in headless Chromium: read them as their scripts leave them, or use them."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"


def dom_of(page: Path, width: int) -> str:
    """Return the page in a window of this width after five seconds; skips without Chromium."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    done = subprocess.run(
        [
            browser,
            *FLAGS.split(),
            "--disable-background-networking",
            f"--user-data-dir={page.parent / 'browser'}",
            f"--window-size={width},900",
            "--virtual-time-budget=5000",
            f"file://{page}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


class Browser:
    """A window of Chromium, driven by its DevTools protocol through two pipes."""

    def __init__(self, program: str, folder: Path) -> None:
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
        )
        command = [program, *flags.split(), "--disable-background-networking"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        # It reads commands from descriptor 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{reads} 4>&{writes}', "bash", *command],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result; events are collected."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._from, 2**16)
            assert part, "the browser ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def run(self, code: str) -> Any:
        """Evaluate JavaScript, wait for a promise, and return the value."""
        found = self.call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until JavaScript gives true."""
        self.wait_until(lambda: bool(self.run(f"Boolean({condition})")))

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def upload(self, path: Path) -> None:
        """Give the page a file."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = "#file input[type=file]"
        node = self.call("DOM.querySelector", nodeId=root, selector=field)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def choose_file(self, path: Path) -> None:
        """Give the page a file, and wait for what comes of it."""
        self.upload(path)
        line = "document.querySelector('#status').innerText.trim()"
        self.wait(f"{line}.startsWith({path.name + ': '!r})")

    def click(self, selector: str, text: str) -> None:
        """Click on the first element of the selector that contains the text."""
        elements = f"[...document.querySelectorAll({selector!r})]"
        self.run(f"{elements}.find(e => e.innerText.includes({text!r})).click()")

    def requests(self) -> list[str]:
        """Return the addresses that were asked for."""
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in sent]

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def layer(self, number: int) -> np.ndarray[Any, Any]:
        """Return what is drawn over a picture: RGBA (H, W, 4)."""
        address = self.run(f"document.querySelectorAll('.layer')[{number}].src")
        content = base64.b64decode(address.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))

    def wait_for_layer(self, number: int, is_right: Callable[[Any], bool]) -> None:
        self.wait_until(lambda: is_right(self.layer(number)))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < end
            time.sleep(0.05)
