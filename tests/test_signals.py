"""Signals at any time: one verified checkpoint, exit code 75 soon, and an exact resumption."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from test_classes import animals  # noqa: F401 - a fixture
from test_train_cls import small  # noqa: F401 - a fixture

from sceneparse.data.synthetic import write_dataset
from tests.conftest import ROOT, newest_undamaged
from tests.processes import Run, assert_same_state, finish

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def stop(run: Run, number: signal.Signals) -> int:
    """Send a signal; the run must end with code 75 soon."""
    run.send(number)
    run.send(signal.SIGCONT)  # should it be frozen
    assert run.wait(60) == 75, run.said
    saved = newest_undamaged(run.folder)
    return 0 if saved is None else int(saved.meta["step"])


@pytest.mark.fault(44)
def test_stopped_in_every_phase_and_resumed(tiny: list[str], tmp_path: Path) -> None:
    # Multi-scale windows make a validation of seconds.
    settings = [*tiny, "train.amp=off", "eval.every=1", "eval.protocol=spnet", "eval.base=128"]
    whole = finish("train", [*settings, f"output={tmp_path / 'whole'}"])
    settings.append(f"output={tmp_path / 'parts'}")
    metrics = tmp_path / "parts" / "metrics.jsonl"

    run = Run("train", settings)
    run.wait_for(lambda: run.handles(signal.SIGUSR1))
    assert stop(run, signal.SIGUSR1) == 0
    assert "SIGUSR1 received, nothing to save" in run.said

    run = Run("train", settings, "--resume")
    run.wait_for((tmp_path / "parts" / "tensorboard").exists)  # the first batch
    step = stop(run, signal.SIGINT)
    assert 1 <= step <= 3
    assert "stopping as soon as the state is saved; Ctrl-C again quits at once" in run.said

    run = Run("train", settings, "--resume")
    run.wait_for(lambda: metrics.exists() and '"train", "step": 3' in metrics.read_text())
    time.sleep(0.2)  # in the validation
    assert stop(run, signal.SIGTERM) == 3
    assert "epoch 1/2" not in run.said
    assert "SIGTERM received, saved after step 3" in run.said

    run = Run("train", settings, "--resume", freeze_at=3)
    run.wait_for(run.is_frozen)  # saving the validated
    assert stop(run, signal.SIGTERM) in range(3, 6)

    finish("train", settings, "--resume")
    assert_same_state(run.folder, whole)


@pytest.mark.fault(44)
def test_second_interrupt_quits_at_once(tiny: list[str]) -> None:
    slow = [*tiny, "train.save_every=1", "augment.crop=[321,481]", "train.batch_size=12"]
    run = Run("train", [*slow, "model.base_width=32", "train.epochs=9"])
    run.wait_for((run.folder / "last").exists)
    time.sleep(0.5)  # in a step that takes seconds
    run.send(signal.SIGINT)
    run.wait_for(lambda: "Ctrl-C again" in run.said)
    saved = run.saved_step()
    run.send(signal.SIGINT)
    assert run.wait(60) == -signal.SIGINT
    assert run.saved_step() == saved > 0


@pytest.mark.fault(44)
def test_signal_that_comes_too_late_changes_nothing() -> None:
    """Python gives up its handlers before libraries end, which takes them a while."""
    # What was registered first is called last: when signals are ignored already.
    code = (
        "import atexit; atexit.register(print, 'ending', flush=True)\n"
        "from sceneparse.runtime.signals import leave_at_signals; leave_at_signals()\n"
        "import torch, cv2"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.readline()
    while process.poll() is None:
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.003)
    assert process.returncode == 0


@pytest.mark.fault(44)
def test_next_seed_does_not_begin_after_a_signal(small: list[str]) -> None:  # noqa: F811
    settings = [*small, "seeds=0-1", "train.save_every=1", "train.epochs=50"]
    run = Run("classify", settings)
    run.wait_for((run.folder / "last").exists)
    stop(run, signal.SIGTERM)
    assert not (run.folder.parent / "seed-1").exists()


@pytest.mark.fault(44)
@pytest.mark.slow
def test_quickstart_is_stopped_at_20_random_times(tmp_path: Path) -> None:
    """Cold starts, the quickstart's own sizes, a validation after every epoch."""
    write_dataset(tmp_path / "data", {"train": 80, "val": 20}, size=(240, 360))
    tool = [sys.executable, "-m", "sceneparse", "train", "--config", "quickstart"]
    tool += [f"data.root={tmp_path / 'data'}", "eval.every=1", "train.epochs=5"]
    tool += ["train.save_every=7", "train.amp=off"]

    def start(output: str, *options: str) -> subprocess.Popen[str]:
        command = [*tool, f"output={tmp_path / output}", *options]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    process = start("whole")
    begun = time.monotonic()
    assert process.wait() == 0
    seconds = time.monotonic() - begun

    generator = random.Random(0)
    phases: Counter[str] = Counter()
    longest, run = 0.0, 0
    while sum(phases.values()) < 20:
        process = start(f"parts-{run}", "--resume")
        # Python itself takes a moment to start; before it no program can do anything.
        time.sleep(0.3 + generator.expovariate(4 / seconds))
        number = sum(phases.values())
        # To the process alone, or to its workers as well, as Ctrl-C and many schedulers do.
        (os.kill, os.killpg)[number % 2](process.pid, SIGNALS[number % 3])
        sent = time.monotonic()
        said = process.communicate(timeout=60)[1]
        if process.returncode == 0:  # finished before the signal came
            assert_same_state(tmp_path / f"parts-{run}", tmp_path / "whole")
            run += 1
            continue
        assert process.returncode == 75, said
        longest = max(longest, time.monotonic() - sent)
        nothing = "nothing to save" in said
        phases["start" if nothing else "later"] += 1
        if not nothing:
            assert newest_undamaged(tmp_path / f"parts-{run}") is not None
    process = start(f"parts-{run}", "--resume")
    assert process.wait() == 0
    assert_same_state(tmp_path / f"parts-{run}", tmp_path / "whole")
    print(f"stopped {dict(phases)}, the longest took {longest:.1f} s")
    assert longest < 30
