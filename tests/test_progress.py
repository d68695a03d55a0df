"""Log lines and progress on the terminal."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from sceneparse.runtime.progress import log_on_main, log_to_stderr
from tests.conftest import ROOT


def test_library_logs_nothing_by_itself() -> None:
    code = "import logging, sceneparse; logging.getLogger('sceneparse.data').warning('hello')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_commands_print_each_line_once_in_the_main_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("sceneparse.training.run")
    for _ in range(2):
        log_on_main()
    logger.info("100% of 5")
    with log_to_stderr():
        logger.info("while training")
    monkeypatch.setenv("RANK", "1")
    logger.info("of another process")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("100% of 5\n", "while training\n")
