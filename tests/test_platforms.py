"""Runs on systems that lack what Linux has: Windows, macOS, and file systems without links."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from sceneparse.data import cache, loader
from sceneparse.runs import atomic
from sceneparse.runtime import memory
from tests.conftest import ROOT
from tests.processes import assert_same_state

WINDOWS, MACOS = SimpleNamespace(platform="win32"), SimpleNamespace(platform="darwin")


def test_a_run_lives_without_posix(tiny: list[str], tmp_path: Path) -> None:
    settings = [s for s in tiny if not s.startswith("output=")]
    settings += ["train.amp=off", "train.save_every=1", "train.epochs=2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.without_posix", str(tmp_path), *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "SIGINT received, saved after step" in done.stderr
    assert "resuming from" in done.stdout + done.stderr
    assert_same_state(tmp_path / "parts", tmp_path / "whole")
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]
    whole, parts = (
        json.loads((tmp_path / folder / "eval.json").read_text())
        for folder in ("whole/eval_val", "parts/eval_val_last")
    )
    assert whole["mean_iou"] > 0
    assert parts.keys() == whole.keys()
    assert len(list((tmp_path / "out").rglob("*.png"))) >= 5


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_files_that_a_reader_holds_are_replaced_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows renames no open file, and opens no folder."""
    refusals = [refuse, refuse]
    replace, path = Path.replace, tmp_path / "last"

    def busy(*arguments: Path) -> None:
        (refusals.pop() if refusals else replace)(*arguments)

    monkeypatch.setattr(atomic, "sys", WINDOWS)
    monkeypatch.setattr(atomic, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(os, "open", refuse)
    atomic.replace_text(path, "a\nb\n")
    assert path.read_bytes() == b"a\nb\n"
    refusals += [refuse] * 3
    with pytest.raises(PermissionError):
        atomic.replace_text(path, "c")
    assert path.read_bytes() == b"a\nb\n"


def test_sample_that_another_worker_has_mapped_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, array = tmp_path / "sample.npy", np.arange(6)
    cache.save_array(path, array)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        cache.save_array(path, array)
    monkeypatch.setattr(cache, "sys", WINDOWS)
    cache.save_array(path, array)
    with pytest.raises(PermissionError):
        cache.save_array(tmp_path / "new.npy", array)
    assert list(tmp_path.iterdir()) == [path]


def test_memory_is_measured_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel on Linux, by getrusage on macOS, by psutil on Windows."""
    largest = np.ones(2**25)
    del largest
    on_linux = memory.peak_memory()
    assert on_linux > 2**28
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda _: False)
        assert memory.peak_memory() == pytest.approx(on_linux, rel=0.5)
        usage = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=2**30))
        patch.setattr(memory, "sys", WINDOWS)
        patch.setattr(psutil, "Process", lambda: usage)
        assert memory.peak_memory() == 2**30


def be_main(writer: int) -> None:
    """Start a data worker as a training process does, tell its process id, and wait."""
    fork = multiprocessing.get_context("fork")
    worker = fork.Process(target=be_worker, args=(os.getpid(),))
    worker.start()
    os.write(writer, f"{worker.pid}\n".encode())
    time.sleep(60)


def be_worker(main: int) -> None:
    loader._start_worker(main, 0)
    time.sleep(60)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("system", [MACOS, sys])
def test_worker_ends_when_its_main_process_is_killed(
    monkeypatch: pytest.MonkeyPatch, system: object
) -> None:
    monkeypatch.setattr(loader, "sys", system)
    reader, writer = os.pipe()
    main = os.fork()
    if main == 0:
        be_main(writer)
        os._exit(0)
    os.close(writer)
    worker = psutil.Process(int(os.read(reader, 100)))
    time.sleep(0.3)
    assert not has_ended(worker)
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    end = time.monotonic() + 10
    while not has_ended(worker):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_does_not_end_workers_that_are_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        with loader._interrupts_held_back(2):
            worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0.1,))
            worker.start()
            for pid in (worker.pid, os.getpid()):
                os.kill(pid or 0, signal.SIGINT)
        assert received == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    worker.join()
    assert worker.exitcode == 0


def test_ctrl_c_is_ignored_by_new_processes_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    kernel = SimpleNamespace(SetConsoleCtrlHandler=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(loader, "sys", WINDOWS)
    monkeypatch.setattr(loader.ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    with loader._interrupts_held_back(0):
        assert calls == []
    with loader._interrupts_held_back(2):
        assert calls == [(None, True)]
    assert calls == [(None, True), (None, False)]
