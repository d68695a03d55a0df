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
from test_train_seg import QUICKSTART

from sceneparse.data.cache import CACHES
from sceneparse.data.datasets import create_dataset
from sceneparse.data.loader import TensorSamples, batches, evaluation_loader
from sceneparse.data.resizing import Resize
from sceneparse.data.sampling import Draw
from sceneparse.data.transforms import training_transform
from sceneparse.runs.checkpoint import newest_intact
from sceneparse.runtime.signals import StopRequest
from sceneparse.studies.sweep import worker
from tests.conftest import ROOT

# What differs between two equal runs.
_TIMES = {"seconds", "images_per_second"}


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


def test_a_spawned_worker_loads_the_same(scenes: Path, spawned: None) -> None:
    dataset = create_dataset("folder", scenes, "val")
    loader = evaluation_loader(dataset, rank=0, world_size=1, workers=1, timeout=120)
    found = list(batches(loader))
    assert [batch.names for batch in found] == [(pair.name,) for pair in dataset.pairs]
    for batch, (image, mask, _) in zip(found, map(dataset.__getitem__, range(5)), strict=True):
        assert np.array_equal(batch.images[0].permute(1, 2, 0), image)
        assert np.array_equal(batch.targets[0], mask)


def test_workers_of_a_sweep_end_without_a_signal() -> None:
    ending = multiprocessing.get_context("spawn").Event()
    parts: Any = None
    objective = worker._Objective(parts, parts, StopRequest(), ending)
    assert not objective.stopping
    ending.set()
    assert objective.stopping


def outcome(folder: Path) -> dict[str, Any]:
    """Return weights, records and scores of a run that was trained and evaluated."""
    saved = newest_intact(folder)
    assert saved is not None
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with np.load(folder / "eval_val/counts.npz") as counts:
        arrays = {name: counts[name].tolist() for name in counts.files}
    return {
        "weights": (saved.folder / "model.safetensors").read_bytes(),
        "records": [{k: v for k, v in r.items() if k not in _TIMES} for r in records],
        "scores": (folder / "eval_val/eval.json").read_text().replace(str(folder), "RUN"),
        "counts": arrays,
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_training_and_evaluation_are_the_same_however_workers_start(
    tiny: list[str], tmp_path: Path, method: str
) -> None:
    """Python runs sitecustomize first, so that the command itself is as users start it."""
    text = "import multiprocessing, os\nmultiprocessing.set_start_method(os.environ['START'])\n"
    (tmp_path / "sitecustomize.py").write_text(text)
    found = {}
    for start in ("fork", method):
        folder = tmp_path / start
        settings = [*tiny, f"output={folder}", "data.workers=2", "train.epochs=1"]
        for command in (
            ["train", "--config", str(QUICKSTART), *settings],
            ["evaluate", str(folder), "--workers", "2"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "sceneparse", *command],
                env={**os.environ, "START": start, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        found[start] = outcome(folder)
    for key, value in found["fork"].items():
        assert found[method][key] == value, key
