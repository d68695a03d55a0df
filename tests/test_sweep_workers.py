"""Sweeps in processes of their own: killed, stopped, and sharing a database."""

# ruff: noqa: F811 - fixtures are imported by their names

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial, TrialState
from test_classes import animals  # noqa: F401 - a fixture
from test_sweep_cls import (  # noqa: F401
    GRID,
    ROOT,
    Write,
    epochs_of,
    planned,
    rows_at,
    vanish,
    write,
)
from test_train_seg import call

from sceneparse.cli import sweep as sweep_command
from sceneparse.studies.sweep import settings, study, worker
from sceneparse.studies.sweep.plan import Plan
from sceneparse.studies.sweep.settings import Params, Space
from sceneparse.studies.sweep.study import open_storage

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def start(write: Write, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the tool in a process of its own, and leave nothing behind."""
    started = []

    def start(text: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sceneparse", "sweep", str(write(text))]
        process = subprocess.Popen(
            [*command, f"output={tmp_path / 'out'}", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def worker_after_an_epoch(
    plan: Plan, place: str, process: subprocess.Popen[str]
) -> tuple[int, int]:
    """Wait until a worker has an epoch behind it; return its process and its trial."""
    while process.poll() is None:
        time.sleep(0.1)
        if not (plan.output / "trial-0000").is_dir():
            continue
        sweep = study.join_study(plan, open_storage(place))
        for attempt in study.in_state(study.attempts_of(sweep), TrialState.RUNNING):
            trial = attempt.user_attrs["trial"]
            if attempt.last_step and (plan.folder(trial) / "seed-0/last").exists():
                return int(attempt.user_attrs["worker"].split(":")[1]), trial
    raise AssertionError(process.communicate()[0])


LONG = GRID.replace("1.0e+30", "0.01").replace("[none, eca]", "[none]")


def test_trial_of_a_killed_worker_is_resumed_by_another_one(
    write: Write,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start(LONG, "--workers=2", "train.epochs=30")
    plan = planned(write(LONG), "train.epochs=30")
    place = str(plan.output / "sweep.db")
    pid, trial = worker_after_an_epoch(plan, place, process)
    os.kill(pid, signal.SIGKILL)
    opened = open_storage(place)
    (attempt,) = study.attempts_of(study.join_study(plan, opened))[trial]
    vanish(opened, attempt.number)  # else its last heartbeat counts for a minute
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed
    assert f"trial {trial}: its worker {socket.gethostname()}:{pid} sent no heartbeat" in printed
    rows = rows_at(plan, place)
    assert [row.state for row in rows] == ["complete"] * 2
    assert [row.attempts for row in rows] == [1 + (row.trial == trial) for row in rows]
    for row in rows:  # also what was reported is whole, and no epoch was trained twice
        assert epochs_of(plan.folder(row.trial) / "seed-0") == list(range(1, 31))
        assert row.epochs == 30
    assert "resuming from" in (plan.folder(trial) / "train.log").read_text()


def test_stopped_sweep_goes_on(
    write: Write,
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    process = start(LONG, "train.epochs=30")
    plan = planned(write(LONG), "train.epochs=30")
    place = str(plan.output / "sweep.db")
    worker_after_an_epoch(plan, place, process)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 75, printed
    assert "stopped: SIGTERM received; resume with the same command" in printed
    assert [row.state for row in rows_at(plan, place)] == ["waiting"] * 2
    assert call(sweep_command, write(LONG), f"output={tmp_path / 'out'}", "train.epochs=30") == 0
    rows = rows_at(plan, place)
    assert [(row.state, row.attempts) for row in rows] == [("complete", 2), ("complete", 1)]
    assert epochs_of(plan.folder(0) / "seed-0") == list(range(1, 31))


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server on loopback, of this test alone."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = programs[-1] if programs else shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL is not installed: initdb is not there")
    tools, folder = Path(found).parent, Path(tempfile.mkdtemp(prefix="postgres-"))
    # PostgreSQL refuses to be run by root.
    someone: dict[str, Any] = {}
    if os.geteuid() == 0:
        someone = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "password").write_text("topsecret")
    (folder / "password").chmod(0o644)

    def run(name: str, *arguments: str) -> None:
        command = [str(tools / name), "-D", str(folder / "data"), *arguments]
        with (folder / "said").open("ab") as said:
            done = subprocess.run(
                command, cwd=folder, stdout=said, stderr=said, check=False, **someone
            )
        assert done.returncode == 0, (folder / "said").read_text()

    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run("initdb", "-A", "scram-sha-256", "-U", "me", f"--pwfile={folder / 'password'}", "-N")
    run("pg_ctl", "-w", "-o", settings + " -c fsync=off", "start")
    try:
        yield f"postgresql://me:topsecret@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.mark.slow
def test_trial_of_a_vanished_machine_is_resumed_by_another_one(
    write: Write, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, postgres: str
) -> None:
    process = start(LONG, f"--storage={postgres}", "train.epochs=30")
    plan = planned(write(LONG), "train.epochs=30")
    pid, trial = worker_after_an_epoch(plan, postgres, process)
    for number in (process.pid, pid):
        os.kill(number, signal.SIGKILL)
    assert [row.state for row in rows_at(plan, postgres)] == ["running", "waiting"]
    settings = [f"output={tmp_path / 'out'}", f"--storage={postgres}", "train.epochs=30"]
    assert call(sweep_command, write(LONG), *settings) == 0
    rows = rows_at(plan, postgres)
    assert [(row.state, row.attempts) for row in rows] == [("complete", 2), ("complete", 1)]
    assert epochs_of(plan.folder(trial) / "seed-0") == list(range(1, 31))


def work_together(plan: Plan, place: str, seat: int, seats: int, *rest: Any) -> None:
    """Do what a worker does, but hold the first trial until all workers have one."""

    def suggest(trial: Trial, space: Space) -> Params:
        for _ in range(1200):
            attempts = [a for of in study.attempts_of(trial.study).values() for a in of]
            if len({a.user_attrs.get("worker") for a in attempts} - {None}) == seats:
                return settings.suggest(trial, space)
            time.sleep(0.1)
        raise AssertionError("the other worker has not begun")

    worker.suggest = suggest
    worker.work(plan, place, seat, seats, *rest)


def test_two_workers_share_a_database(
    write: Write,
    tmp_path: Path,
    postgres: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(worker, "work", work_together)
    path, long = write(GRID.replace("1.0e+30", "0.01")), "train.epochs=3"
    command = [path, f"output={tmp_path / 'out'}", "--workers=2", f"--storage={postgres}", long]
    assert call(sweep_command, *command) == 0
    plan = planned(path, long)
    rows = rows_at(plan, postgres)
    assert [(row.state, row.attempts) for row in rows] == [("complete", 1)] * 4
    assert len({(row.params["attention"], row.params["optim.lr"]) for row in rows}) == 4
    attempts = study.attempts_of(study.join_study(plan, open_storage(postgres)))
    assert len({of[0].user_attrs["worker"] for of in attempts.values()}) == 2
    assert not (tmp_path / "out/sweep.db").exists()

    # a machine that comes later finds nothing left to do
    assert call(sweep_command, *command) == 0
    assert call(sweep_command, *command, "train.epochs=7") == 2
    assert "train.epochs was 3, is 7" in capsys.readouterr().err
    wrong = postgres.replace("topsecret", "notsecret")
    assert call(sweep_command, *command[:3], f"--storage={wrong}", long) == 2
    said = capsys.readouterr()
    assert "password authentication failed" in said.err
    written = (tmp_path / "out/sweep.json").read_text()
    assert "secret" not in said.out + said.err + written
