"""Open a page in headless Chromium and read it as its scripts leave it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
