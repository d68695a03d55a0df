"""Log lines and progress on the terminal."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from sceneparse.runtime.progress import Progress, log_on_main, log_to_stderr
from sceneparse.runtime.series import Series, in_front
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


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sceneparse.runtime.progress.time.monotonic", clock)
    return clock


def test_without_a_terminal_a_line_every_15_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def note() -> str:
        calls.append("mean IoU 0.5")
        return calls[-1]

    with Progress("evaluate", 40, "images", note=note) as progress:
        calls.clear()
        for _ in range(20):
            clock.now += 2
            progress.advance()
    assert capsys.readouterr().err.splitlines() == [
        "evaluate  8/40 images  0.5 images/s  1m04s left  mean IoU 0.5",
        "evaluate  16/40 images  0.5 images/s  48s left  mean IoU 0.5",
    ]
    assert len(calls) == 2  # what is costly is computed only when it is shown


def test_a_resumed_job_counts_on(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("train", 1000, "images", done=600, seconds=50, most_left=lambda: 3)
    clock.now += 1000
    with progress.paused():
        clock.now += 500
    progress.advance(200)
    assert "train  800/1000 images  0.2 images/s  3s left\n" in capsys.readouterr().err
    assert progress.seconds == 1050
    clock.now += 20
    progress.change_total(900)
    progress.advance()
    assert capsys.readouterr().err == "train  801/900 images  0.2 images/s  3s left\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_same_text(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Progress("check", 40, "samples") as progress:
        for _ in progress.over(range(10)):
            clock.now += 1
    drawn = terminal.getvalue()
    assert "check  0/40 samples" in drawn
    assert "█████ " in drawn or "##### " in drawn
    assert "check  10/40 samples  1.0 samples/s  30s left" in drawn


def test_status_lines_begin_with_the_position_in_all_runs(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    series = Series("run", 12)
    # Runs 1 and 2 were finished before, run 3 to a half; runs 3 to 10 of 12 are not.
    series.begin(3, 8)
    with in_front(series.describe):
        train = Progress("train", 100, "images", done=50, is_run=True)
        clock.now += 20
        train.advance(25)
        clock.now += 30
        with Progress("validate", 10, "images") as other:
            clock.now += 16
            other.advance()
        clock.now += 34
        train.advance(25)
        series.begin(4, 7)
        train = Progress("train", 100, "images", is_run=True)
        clock.now += 100
        train.advance(50)
    shown = capsys.readouterr().err.splitlines()
    # A quarter of a run took 20 s, then 66 s; half a run took 100 s, and a whole one 200 s.
    assert [line.partition("  ")[0] for line in shown] == [
        f"run 3 of 12 ({left} left)" for left in ("9m40s", "31m54s", "23m20s")
    ] + ["run 4 of 12 (21m40s left)"]
    assert Progress.front is None


def test_a_run_alone_has_no_position(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    series = Series("run", 1)
    series.begin(1, 1)
    with in_front(series.describe), Progress("train", 4, "images", is_run=True) as train:
        clock.now += 20
        train.advance(2)
    assert capsys.readouterr().err == "train  2/4 images  0.1 images/s  20s left\n"
