"""Every target on a few mutated inputs, always; guided by coverage with -m slow."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sceneparse.errors import Explained, InputError
from tests.conftest import ROOT
from tests.fuzz import run
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(TARGETS.keys() - {"list"}))
def test_seeds_are_accepted_as_they_are(name: str) -> None:
    """Else what lies behind the first check would never be reached; lists name absent files."""
    target = TARGETS[name]
    if name == "sweep":
        pytest.importorskip("optuna")
    for seed in target.seeds:
        target.fuzz(target.repair(seed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_accepted_or_explained(name: str) -> None:
    if name == "sweep":
        pytest.importorskip("optuna")
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=10_000,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def check(dice: random.Random) -> None:
        with suppress(Explained):
            target.fuzz(target.draw(dice))

    check()


def lose(_: bytes) -> None:
    raise KeyError("lost")


def die(_: bytes) -> None:
    os.kill(os.getpid(), 9)


def explain(_: bytes) -> None:
    raise InputError("x: damaged")


HARMS: dict[str, tuple[Callable[[bytes], object], str]] = {
    "error": (lose, "KeyError: "),
    "hang": (lambda _: time.sleep(60), "TookOverTenSeconds: "),
    "crash": (die, "the process died with code -9"),
    "explained": (explain, ""),
}


@pytest.mark.parametrize("name", HARMS)
def test_harm_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harm, expected = HARMS[name]
    monkeypatch.setattr(run, "SECONDS", 1 if name == "hang" else 60)
    monkeypatch.setitem(TARGETS, "harm", Target(harm, lambda: [b"a valid input"]))
    found = run.fuzz("harm", 2, 0, tmp_path)
    if not expected:
        assert found == {}
        return
    assert sum(found.values()) == 2
    assert all(finding.startswith(expected) for finding in found)
    assert (tmp_path / "harm-0").read_bytes() == run.input_of("harm", 0, 0)


def test_memory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(_: bytes) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (tmp_path / "used").write_text(str(used))

    targets = {"modest": note, "greedy": lambda _: len(b"x" * 400_000_000)}
    for name, fuzz in targets.items():
        monkeypatch.setitem(TARGETS, name, Target(fuzz, lambda: [b"a valid input"]))
    run.fuzz("modest", 1, 0, tmp_path)
    monkeypatch.setattr(run, "KILOBYTES", int((tmp_path / "used").read_text()) + 200_000)
    assert run.fuzz("modest", 1, 0, tmp_path) == {}
    (finding,) = run.fuzz("greedy", 1, 0, tmp_path)
    assert finding.startswith("over 1 GB: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str, tmp_path: Path) -> None:
    """Atheris finds inputs that reach new lines; run `make fuzz` for many more."""
    pytest.importorskip("atheris", reason="pip install 'sceneparse[fuzz]'")
    count = os.environ.get("FUZZ_COUNT", "2000")
    command = [sys.executable, "-m", "tests.fuzz.guided", name, f"-runs={count}", "-timeout=30"]
    limits = ["-rss_limit_mb=2048", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [*command, *limits, str(tmp_path / "corpus")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {count} runs" in done.stderr
