"""The folder of a run: one process at a time, others' files untouched, no change unasked."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sceneparse.cli import train as train_command
from sceneparse.errors import InputError
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.runs.lock import LOCK_FILE, RunLock
from tests.conftest import ROOT
from tests.test_train_seg import QUICKSTART, call, folder_of

DEAD = 2**22 + 1  # no process of Linux has this number
HOLD = """
import sys, time
from pathlib import Path
from sceneparse.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock of a run."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.fault(43)
def test_second_process_is_refused_and_the_lock_of_a_dead_one_taken_over(
    tmp_path: Path, logged: list[str]
) -> None:
    lock = RunLock(tmp_path)
    with held_elsewhere(tmp_path) as other:
        who = f"process {other.pid} on {socket.gethostname()}"
        with pytest.raises(InputError, match=f"is in use by {who}; wait for it, or .*output="):
            lock.acquire()
    assert logged == []
    lock = RunLock(tmp_path)
    lock.acquire()
    assert logged == [f"{who} died; its lock is taken over"]
    lock.release()
    RunLock(tmp_path).acquire()
    assert len(logged) == 1


def test_lock_that_workers_of_a_dead_process_still_hold_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    main = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.pid_exists(main.pid) and psutil.Process(main.pid).status() != "zombie":
        time.sleep(0.01)  # poll() and wait() would release its number
    with held_elsewhere(tmp_path) as worker:
        holder = {"pid": main.pid, "host": socket.gethostname(), "ended": False}
        (tmp_path / LOCK_FILE).write_text(json.dumps(holder))
        who = f"process {main.pid} on {socket.gethostname()}"
        with monkeypatch.context() as patch, pytest.raises(InputError, match=who):
            patch.setattr("sceneparse.runs.lock._SECONDS_OF_WORKERS", 0.2)
            RunLock(tmp_path).acquire()
        threading.Timer(0.5, worker.kill).start()
        lock = RunLock(tmp_path)
        lock.acquire()
    assert logged == [f"{who} died; its lock is taken over"]
    lock.release()
    main.wait()


def test_process_may_open_its_own_run_again(tmp_path: Path, logged: list[str]) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    second.acquire()
    second.release()
    with held_elsewhere(tmp_path):
        pass
    first.release()


@pytest.mark.fault(43)
def test_training_refuses_a_folder_in_use(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tiny)
    folder.mkdir()
    with held_elsewhere(folder):
        for option in ("--resume", "--overwrite"):
            assert call(train_command, "--config", QUICKSTART, *tiny, option) == 2
            assert "is in use by process" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {LOCK_FILE, f"{LOCK_FILE}.os"}


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        ({"pid": DEAD, "host": socket.gethostname(), "ended": False}, "taken over"),
        ({"pid": os.getppid(), "host": socket.gethostname(), "ended": False}, "wait for it"),
        ({"pid": 1, "host": "elsewhere", "ended": False}, "if it has ended, delete "),
        ({"pid": 1, "host": "elsewhere", "ended": True}, ""),
        ({"pid": -5, "host": socket.gethostname(), "ended": False}, "taken over"),
        ({"pid": 2**40, "host": socket.gethostname(), "ended": False}, "taken over"),
        ("half a na", ""),
    ],
)
def test_name_decides_where_the_file_system_has_no_locks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[str],
    holder: object,
    expected: str,
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_locks)
    (tmp_path / LOCK_FILE).write_text(json.dumps(holder) if isinstance(holder, dict) else "{" * 9)
    lock = RunLock(tmp_path)
    try:
        lock.acquire()
    except InputError as error:
        logged.append(str(error))
    assert expected in "".join(logged)
    assert bool(logged) == bool(expected)


def test_folders_of_others_are_safe(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tiny)
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    for options in ([], ["--overwrite"], ["--resume"]):
        assert call(train_command, "--config", QUICKSTART, *tiny, *options) == 2
        assert "is not a run folder; choose another one" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_run_that_ended_before_its_first_checkpoint_is_started(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*tiny, "train.epochs=1"]
    folder = folder_of(tiny)
    folder.mkdir()
    (folder / LOCK_FILE).write_text("")  # killed while it made its folder
    assert call(train_command, "--config", QUICKSTART, *short) == 2
    assert "resume it with --resume, start over with --overwrite" in capsys.readouterr().err
    assert call(train_command, "--config", QUICKSTART, *short, "--resume") == 0
    assert "no checkpoint yet; the run starts from the beginning" in capsys.readouterr().out
    metrics = (folder / "metrics.jsonl").read_text()
    assert call(train_command, "--config", QUICKSTART, *short, "--resume") == 0
    assert (folder / "metrics.jsonl").read_text() == metrics


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.fault(42)
def test_resume_with_other_settings_is_refused_unless_asked(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def resumed(*settings: str) -> tuple[int, str]:
        code = call(train_command, "--config", QUICKSTART, *tiny, "--resume", *settings)
        said = capsys.readouterr()
        return code, said.out + said.err

    assert call(train_command, "--config", QUICKSTART, *tiny, "train.epochs=1") == 0
    code, said = resumed("train.epochs=3", "optim.lr=0.3")
    assert code == 2
    assert "train.epochs was 1, is 3" in said
    assert "optim.lr was 0.05, is 0.3" in said
    code, said = resumed("train.batch_size=2", "--accept-changes")
    assert code == 2
    assert "this is another run: train.batch_size was 4, is 2" in said
    assert resumed("data.root=nowhere")[0] == 2
    assert call(train_command, "--config", QUICKSTART, *tiny) == 2  # without --resume
    changes = ["train.epochs=3", "optim.lr=0.3", "optim.weight_decay=0.5", "--accept-changes"]
    code, said = resumed(*changes)
    assert code == 0
    assert "died" not in said  # none of the refused starts did
    assert "changed: optim.lr was 0.05, is 0.3" in said
    # of steps 6 and 9 of 9, by the new rate; momenta are kept, settings are the new ones
    rates = [record["lr"] for record in records(folder_of(tiny), "train")][1:]
    assert rates == pytest.approx([0.3 * (1 - 5 / 9) ** 0.9, 0.3 * (1 - 8 / 9) ** 0.9])
    last = resolve_checkpoint(folder_of(tiny) / "last")
    state = torch.load(last / "training.pt", weights_only=True)
    optimizer = state["stepper"]["optimizer"]
    assert {group["weight_decay"] for group in optimizer["param_groups"]} == {0.5}
    assert resumed(*changes[:3])[0] == 0
