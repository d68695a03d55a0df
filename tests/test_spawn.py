"""Workers that are spawned, as on Windows and macOS, or come from a fork server give the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train_seg import QUICKSTART, call, folder_of

from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import train as train_command
from sceneparse.data.cache import CACHES
from sceneparse.data.datasets import create_dataset
from sceneparse.data.loader import TensorSamples
from sceneparse.data.resizing import Resize
from sceneparse.data.sampling import Draw
from sceneparse.data.transforms import training_transform
from tests.conftest import ROOT

# What differs between two equal runs.
_OWN = {"seconds", "images_per_second", "date", "memory", "checkpoint", "time", "rate"}


@pytest.fixture
def spawned() -> Iterator[None]:
    """Start processes as Windows and macOS do."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("resize", [None, Resize("long", 64)])
@pytest.mark.parametrize("cache", ["none", "disk"])
def test_all_that_workers_get_can_be_sent(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, resize: Resize | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = CACHES[cache](create_dataset("folder", scenes, "train").resized(resize))
    transform = training_transform(
        crop=(32, 48),
        scale=(0.5, 2.0),
        rotate=10,
        flip=0.5,
        blur=0.5,
        color_jitter=0.4,
        extra=[{"name": "GaussNoise", "p": 1.0}, {"name": "CoarseDropout", "p": 1.0}],
        fill=(1, 2, 3),
        ignore_index=255,
    )
    samples = TensorSamples(dataset, transform, seed=3)
    sent = pickle.loads(pickle.dumps(samples))
    for index in range(3):
        draw = Draw(1, index)
        for own, other in zip(samples[draw], sent[draw], strict=True):
            assert np.array_equal(own, other)


def outcome(folder: Path) -> dict[str, Any]:
    """Return weights, records and scores of a run that was trained and evaluated."""
    state = torch.load(folder / "last/training.pt", weights_only=True)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "eval_val/eval.json").read_text())
    with np.load(folder / "eval_val/counts.npz") as counts:
        arrays = {name: counts[name].tolist() for name in counts.files}
    return {
        "weights": (folder / "last/model.safetensors").read_bytes(),
        "optimizer": pickle.dumps(state["optimizer"]),
        "records": [{k: v for k, v in r.items() if k not in _OWN} for r in records],
        "scores": {k: v for k, v in result.items() if k not in _OWN},
        "counts": arrays,
    }


def trained(settings: list[str]) -> dict[str, Any]:
    assert call(train_command, "--config", QUICKSTART, *settings) == 0
    assert call(evaluate_command, folder_of(settings), "--workers", 2) == 0
    return outcome(folder_of(settings))


def with_workers(tiny: list[str], name: str) -> list[str]:
    output = f"output={folder_of(tiny).with_name(name)}"
    return [output, *tiny[2:], tiny[0], "data.workers=2", "train.epochs=1"]


def test_spawned_workers_train_and_evaluate_the_same(
    tiny: list[str], request: pytest.FixtureRequest
) -> None:
    forked = trained(with_workers(tiny, "forked"))
    request.getfixturevalue("spawned")
    spawned = trained(with_workers(tiny, "spawned"))
    assert spawned.keys() == forked.keys()
    for key, value in forked.items():
        assert spawned[key] == value, key


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_commands_start_workers_in_every_way(tiny: list[str], tmp_path: Path, method: str) -> None:
    """Python runs sitecustomize first, so that the command itself is as users start it."""
    text = f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\n"
    (tmp_path / "sitecustomize.py").write_text(text)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    expected = trained(with_workers(tiny, "forked"))
    settings = with_workers(tiny, method)
    for verb in (
        ["train", "--config", str(QUICKSTART), *settings],
        ["evaluate", str(folder_of(settings)), "--workers", "2"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "sceneparse", *verb],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    found = outcome(folder_of(settings))
    for key, value in expected.items():
        assert found[key] == value, key
