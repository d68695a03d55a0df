"""Runs that are killed go on exactly: n steps equal k steps, SIGKILL and the other n - k."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_classes import animals  # noqa: F401 - a fixture
from test_train_cls import small  # noqa: F401 - a fixture

from tests.conftest import newest_undamaged
from tests.processes import CONFIGS, ROOT, Run, assert_same_state, finish

# The run, and what it is resumed with.
SEGMENTATION = {
    "plain": (["data.workers=0", "train.ema=null", "train.amp=off"], ["data.workers=1"]),
    "everything": (
        [
            "data.workers=2",
            "train.accumulate=2",
            "train.amp=bf16",
            "model.aux=true",
            "augment.color_jitter=0.3",
            "augment.rotate=5.0",
            "optim.clip_norm=1.0",
        ],
        ["data.workers=0"],
    ),
    "streamed and balanced": (
        ["data.workers=1", "data.stream=true", "data.sampling=class_balanced", "train.amp=off"],
        ["data.workers=2"],
    ),
    "epochs of steps": (
        [
            *("train.steps_per_epoch=4", "train.accumulate=2", "data.sampling=rare_crops"),
            *("data.workers=1", "train.amp=off"),
        ],
        ["data.workers=0"],
    ),
}


def records(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl without what depends on the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def killed_and_resumed(tool: str, settings: list[str], changes: list[str], step: int) -> Path:
    """Kill a run once it has saved a step, and let it go on to its end with changed settings."""
    run = Run(tool, settings, freeze_at=step)
    run.wait_for(run.is_frozen)
    workers = run.descendants()
    run.send(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "the run ended before it was killed"
    finish(tool, [*settings, *changes], "--resume")
    assert f"resuming from {run.folder}/checkpoints/step-" in run.said
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    return run.folder


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    "variant", [pytest.param("plain", marks=pytest.mark.slow), *list(SEGMENTATION)[1:]]
)
def test_killed_segmentation_goes_on_exactly(
    tiny: list[str], tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own, changes = SEGMENTATION[variant]
    settings = [*tiny, *own, "train.save_every=1", "train.epochs=3"]
    whole = finish("train", [*settings, f"output={tmp_path / 'whole'}", "train.save_every=0"])
    parts = killed_and_resumed(
        "train", [*settings, f"output={tmp_path / 'parts'}"], changes, step=4
    )
    assert_same_state(parts, whole)
    assert records(parts) == records(whole)
    for name in ("curves.png", "worst.png", "labels.png", "augmented.png"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    "own",
    [
        pytest.param(["train.amp=off"], marks=pytest.mark.slow),
        ["train.amp=bf16", "attention=strip_pooling"],
    ],
)
def test_killed_classification_goes_on_exactly(
    small: list[str],  # noqa: F811
    tmp_path: Path,
    own: list[str],
) -> None:
    settings = [*small, *own, "train.save_every=1", "train.epochs=6"]
    whole = finish("classify", [*settings, f"output={tmp_path / 'whole'}", "train.save_every=2"])
    parts = killed_and_resumed("classify", [*settings, f"output={tmp_path / 'parts'}"], [], step=4)
    assert_same_state(parts, whole)
    assert records(parts) == records(whole)


@pytest.mark.fault(36)
@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_times_every_run_resumes(
    tiny: list[str], tmp_path: Path, kills: int
) -> None:
    """Checkpoints are written after every step, so that many kills strike there."""
    generator = random.Random(kills)
    settings = [*tiny, "train.save_every=1", "train.amp=off", "train.epochs=5"]
    whole = finish("train", [*settings, f"output={tmp_path / 'whole'}"])
    done, number = 0, 0
    while done < kills:
        own = [*settings, f"output={tmp_path / str(number)}"]
        run = Run("train", own, "--resume")
        time.sleep(generator.uniform(0.1, 3))
        run.send(signal.SIGKILL)
        if run.wait() == -signal.SIGKILL:
            done += 1
        else:
            assert_same_state(run.folder, whole)
            number += 1
    folder = finish("train", own, "--resume")
    assert_same_state(folder, whole)


def torchrun(settings: list[str], *options: str, processes: int = 2) -> subprocess.Popen[str]:
    """Start segmentation under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc_per_node={processes}", *options, "-m", "sceneparse", "train"]
    return subprocess.Popen(
        [*launcher, "--config", str(CONFIGS["train"]), *settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ranks_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """Find the training processes of a torchrun, by rank."""
    children = psutil.Process(launcher.pid).children()
    ranks = [child for child in children if "-m sceneparse train" in " ".join(child.cmdline())]
    return sorted(ranks, key=lambda child: int(child.environ()["RANK"]))


@pytest.mark.fault(39, 47)
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_restarts_a_killed_run_which_ends_the_same(
    tiny: list[str], tmp_path: Path, victim: int
) -> None:
    settings = [*tiny, "train.amp=off", "train.epochs=3", "train.save_every=1", "data.workers=1"]
    whole = torchrun([*settings, f"output={tmp_path / 'whole'}"])
    assert whole.wait(240) == 0
    parts = torchrun([*settings, f"output={tmp_path / 'parts'}"], "--max-restarts=1")
    wait_for((tmp_path / "parts/last").exists)
    killed = time.monotonic()
    ranks_of(parts)[victim].kill()
    said = parts.communicate(timeout=240)[0]
    assert parts.returncode == 0, said
    assert "resuming from" in said
    assert "a bug in sceneparse" not in said
    assert time.monotonic() - killed < 120
    assert_same_state(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.fault(47)
@pytest.mark.slow
def test_all_processes_end_when_one_is_killed(tiny: list[str]) -> None:
    run = torchrun([*tiny, "train.epochs=50", "train.save_every=1", "data.workers=1"])
    folder = Path([s.partition("=")[2] for s in tiny if s.startswith("output=")][-1])
    wait_for((folder / "last").exists)
    ranks = ranks_of(run)
    ranks[1].kill()
    killed = time.monotonic()
    said = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert time.monotonic() - killed < 120
    assert not any(rank.is_running() for rank in ranks)
    assert "a bug in sceneparse" not in said
    assert newest_undamaged(folder) is not None


@pytest.mark.fault(47)
@pytest.mark.slow
def test_torchrun_does_not_resume_what_it_did_not_begin(tiny: list[str]) -> None:
    short = [*tiny, "train.epochs=1"]
    folder = finish("train", short)
    before = (folder / "metrics.jsonl").read_text()
    run = torchrun(short, "--max-restarts=1")
    said = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert said.count("holds a run; resume it with --resume") == 2
    assert (folder / "metrics.jsonl").read_text() == before


@pytest.mark.fault(39)
@pytest.mark.slow
def test_resumed_by_fewer_processes_keeps_the_order_and_says_what_changes(
    tiny: list[str], tmp_path: Path
) -> None:
    settings = [*tiny, "train.amp=off", "train.save_every=1", f"output={tmp_path / 'run'}"]
    run = torchrun([*settings, "train.epochs=20"])
    wait_for((tmp_path / "run/last").exists)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=120)[0]
    assert "SIGTERM received, saved after step" in said
    finish("train", [*settings, "train.epochs=20"], "--resume")
    assert "2 processes before, 1 now: the same samples in the same order, but" in (
        (tmp_path / "run.log").read_text()
    )
    steps = [line["step"] for line in records(tmp_path / "run") if line["kind"] == "train"]
    assert steps == sorted({*range(3, 61, 3), *range(10, 61, 10)})


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
