"""3,000 steps with an evaluation and a checkpoint every 100: nothing grows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sceneparse.data.synthetic import write_dataset
from tests.processes import Run

STEPS_PER_EPOCH, EPOCHS, WARM_UP = 100, 30, 500
# Growth over 1,000 steps that is noise: 4 KB a step would be a batch norm's worth.
ALLOWED = {"memory (MB)": 4.0, "workers' memory (MB)": 4.0, "open files": 0.5, "threads": 0.5}


@pytest.mark.slow
def test_nothing_grows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 4 * STEPS_PER_EPOCH, "val": 8})
    settings = [f"data.root={tmp_path / 'data'}", f"train.epochs={EPOCHS}", "eval.every=1"]
    run = Run("train", [*settings, f"output={tmp_path / 'run'}"])
    samples: list[tuple[float, ...]] = []

    def ended() -> bool:
        if step := last_step(tmp_path / "run" / "metrics.jsonl"):
            samples.append((step, *usage(run)))
        return step >= EPOCHS * STEPS_PER_EPOCH

    run.wait_for(ended, seconds=3600, every=0.5)
    assert run.wait() == 0, run.said
    steps, *columns = np.array([sample for sample in samples if sample[0] > WARM_UP]).T
    assert len(steps) > 200
    slopes = {}
    for name, values in zip(ALLOWED, columns, strict=True):
        slopes[name] = 1000 * np.polyfit(steps, values, 1)[0]
        print(f"{name}: {np.median(values):.1f}, {slopes[name]:+.3f} in 1,000 steps")
    assert all(slope < ALLOWED[name] for name, slope in slopes.items()), slopes


def last_step(records: Path) -> int:
    """Return the step of the last record that is written down to its end."""
    lines = records.read_text().splitlines() if records.is_file() else []
    return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0


def usage(run: Run) -> tuple[float, float, int, int]:
    """Measure the memory of the run and of its two workers; count its open files and threads.

    Memory is all that a process has mapped. What is its own alone jumps by a hundred megabytes
    without a byte more, when another process gives up pages that both have shared since a fork.
    """
    main = run.process
    workers = sorted(main.children(), key=lambda child: child.create_time())[:2]
    mapped = sum(worker.memory_info().rss for worker in workers)
    own = main.memory_info().rss
    return own / 2**20, mapped / 2**20, main.num_fds(), main.num_threads()
