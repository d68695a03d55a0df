"""Saving checkpoints while every single call that writes fails, or the process dies there."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sceneparse.errors import InputError
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.runs import checkpoint
from sceneparse.runs.checkpoint import newest_intact, read_training_state
from tests.test_checkpoint import save_little

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="pathlib of Python 3.10 keeps its own functions of os"
)

# All that changes a disk; those that write contents do half of it before they fail.
CALLS = [(os, name) for name in ("mkdir", "open", "rename", "replace", "unlink", "rmdir", "fsync")]
WRITES = [(checkpoint, "save_file"), (torch, "save"), (pathlib.Path, "write_text")]
# The paths that a write is given, by what it is called.
PATH_OF = {
    "save_file": lambda arguments: arguments[1],
    "save": lambda arguments: arguments[1],
    "write_text": lambda arguments: arguments[0],
}


@contextmanager
def failing_at(number: int, fail: Callable[[], None]) -> Iterator[list[str]]:
    """Let the call of this number fail; gives the names of all calls up to it."""
    seen: list[str] = []

    def counted(name: str, call: Any) -> Any:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) != number:
                return call(*arguments, **options)
            if name in PATH_OF:
                call(*arguments, **options)
                path = Path(PATH_OF[name](arguments))
                os.truncate(path, path.stat().st_size // 2)
            return fail()

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS + WRITES:
            patch.setattr(owner, name, counted(name, getattr(owner, name)))
        yield seen


def in_child(work: Callable[[], None]) -> int:
    """Run something in a copy of this process; return its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# What is there already, and what is saved.
SITUATIONS = {"next": ((1, 2), 3), "same step again": ((2, 3), 3), "first": ((), 1)}


def loadable(run: Path) -> int:
    """Return the step of the checkpoint that a resumed run would begin with; 0: none."""
    saved = newest_intact(run)
    return 0 if saved is None else read_training_state(saved.folder)["position"]["epoch"]


def prepared(folder: Path, steps: tuple[int, ...]) -> Path:
    """Save these steps; runs are copied from here."""
    run = folder / "prepared"
    run.mkdir()
    for step in steps:
        save_little(run, step, best_step=steps[0])
    return run


def check_recovery(run: Path, before: tuple[int, ...], step: int, call: str) -> None:
    """There is a checkpoint if there was one; the run goes on and sweeps what was left over."""
    assert loadable(run) in {*before[-1:], step} if before else {0, step}, call
    save_little(run, step, best_step=1)
    save_little(run, step + 1, best_step=step + 1)
    assert loadable(run) == step + 1, call
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert all(name.startswith("step-") and "replaced" not in name for name in names), (call, names)
    assert sorted(path.name for path in run.iterdir()) == ["best", "checkpoints", "last"], call
    assert resolve_checkpoint(run / "last").name == f"step-{step + 1:08d}", call


@pytest.mark.fault(37)
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_save_fails_at_every_call(tmp_path: Path, situation: str, number: int) -> None:
    before, step = SITUATIONS[situation]

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    start = prepared(tmp_path, before)
    shutil.copytree(start, tmp_path / "counted")
    with failing_at(0, fail) as calls:
        save_little(tmp_path / "counted", step, best_step=step)
    total = len(calls)
    assert {"mkdir", "fsync", "rename", "replace", "write_text", "save_file", "save"} <= set(calls)
    failures = 0
    for at in range(1, total + 1):
        run = shutil.copytree(start, tmp_path / str(at))
        with failing_at(at, fail) as calls:
            try:
                save_little(run, step, best_step=step)
            except InputError as error:
                said = str(error)
            else:  # a call that need not succeed, such as making a folder that is there
                said = ""
                assert loadable(run) == step
        assert not said or re.search(r"cannot save .* bytes needed, [\d,]+ free\); make room", said)
        assert not said or os.strerror(number) in said
        failures += bool(said)
        check_recovery(run, before, step, f"{calls[-1]}, call {at}")
    assert failures >= total - 2


@pytest.mark.fault(36)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_process_dies_at_every_call(tmp_path: Path, situation: str) -> None:
    before, step = SITUATIONS[situation]
    start = prepared(tmp_path, before)
    at, code = 0, 9
    while code:
        at += 1
        run = shutil.copytree(start, tmp_path / str(at))

        def save(run: Path = run, at: int = at) -> None:
            with failing_at(at, lambda: os._exit(9)):
                save_little(run, step, best_step=step)

        code = in_child(save)
        assert code in {0, 9}
        check_recovery(run, before, step, f"call {at}")
    assert at > 15


@pytest.mark.fault(37)
def test_disk_is_full_at_any_byte(tmp_path: Path) -> None:
    """The system refuses to write a file past a limit, wherever the limit is."""
    whole = save_little(tmp_path / "whole", 1)
    largest = max(path.stat().st_size for path in whole.iterdir())
    for limit in range(0, largest, max(largest // 20, 1)):
        run = tmp_path / str(limit)
        save_little(run, 1)

        def save(run: Path = run, limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            with pytest.raises(InputError, match=r"cannot save .*bytes needed"):
                save_little(run, 2)

        assert in_child(save) == 0, limit
        assert loadable(run) == 1
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.fault(37)
def test_free_space_is_looked_at_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_little(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with (
        failing_at(0, lambda: None) as calls,
        pytest.raises(InputError, match=r"not enough room .*1,048,592 bytes needed, 1,000 free"),
    ):
        save_little(tmp_path, 2)
    assert set(calls) <= {"mkdir", "open"}
    assert loadable(tmp_path) == 1
