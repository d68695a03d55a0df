"""Measure training steps of the quickstart against steps of the network alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter

from benchmarks.limits import finish
from benchmarks.rows import Row, Work, cost_row, in_turns, time_row
from sceneparse.data.loader import Batch
from sceneparse.data.synthetic import write_dataset
from sceneparse.training.loop import train_one_epoch
from sceneparse.training.run import Training

# Prepares a run with overridden settings.
Prepare = Callable[[Sequence[str]], Training]
_SCENES = {"train": 48, "val": 4}
STEPS, _REPEATS = 10, 9
# "ours" is the quickstart; in the two others each epoch decodes its images again.
_RUNS = {
    "ours": ["data.workers=2"],
    "decoding": ["data.workers=2", "data.cache=none"],
    "plain": ["data.workers=0", "data.cache=none"],
}


def measure(prepare: Prepare) -> list[Row]:
    """Train in turns as the quickstart does, without a cache, without workers, and on one batch.

    `prepare` prepares a run of the quickstart with changed settings. train_step compares a step
    with the network alone, train_step_decoding a step without a cache; data_wait_share compares
    the share of time waiting for data with that of a run without cache and workers.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data", _SCENES, size=(256, 384))
        runs = {
            name: Steps(prepare([f"data.root={folder}/data", f"output={folder}/{name}", *changed]))
            for name, changed in _RUNS.items()
        }
        seconds = in_turns(
            {**runs, "alone": network_alone(runs["ours"].training, STEPS)},
            repeats=_REPEATS,
            pause=0.5,  # until the workers have read ahead
        )
        for run in runs.values():
            run.training.lock.release()
    steps = {name: [s / STEPS for s in of] for name, of in seconds.items()}
    ours, plain = (runs[name].shares(seconds[name]) for name in ("ours", "plain"))
    return [
        time_row("train_step", steps["ours"], steps["alone"]),
        time_row("train_step_decoding", steps["decoding"], steps["alone"]),
        cost_row("data_wait_share", ours, plain, "%"),
    ]


class Steps:
    """Runs some steps at each call, and records the time spent waiting for data."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self._waits: list[float] = []
        self._batches = _endless(training)

    def __call__(self) -> None:
        """Take STEPS steps."""
        training = self.training
        self._waits.append(0.0)
        steps = train_one_epoch(
            training.parallel,
            self._timed(),
            training.stepper,
            forward=training.forward,
            loss_function=training.loss,
            normalize=training.normalize,
            compute=training.compute,
            accumulate=1,
            seed=(training.seed,),
            first_step=0,
        )
        for _ in steps:
            pass
        finish(training.process.device)

    def shares(self, seconds: Sequence[float]) -> list[float]:
        """Return which percentage of the last calls' seconds was spent waiting for data."""
        last = self._waits[-len(seconds) :]
        return [100 * waited / spent for waited, spent in zip(last, seconds, strict=True)]

    def _timed(self) -> Iterator[Batch]:
        for _ in range(STEPS):
            start = perf_counter()
            batch = next(self._batches)
            self._waits[-1] += perf_counter() - start
            yield batch


def _endless(training: Training) -> Iterator[Batch]:
    epoch = 0
    while True:
        training.sampler.start_at(epoch, 0)
        yield from training.batches()
        epoch += 1


def network_alone(training: Training, steps: int) -> Work:
    """Return steps of a plain loop on one batch: forward pass, loss, backward pass, optimiser."""
    compute, device = training.compute, training.process.device
    (batch,) = islice(_endless(training), 1)
    images = training.normalize(compute.place_images(batch.images))
    targets = batch.targets.to(device)
    optimizer = training.stepper.optimizer

    def work() -> None:
        training.parallel.train()
        for _ in range(steps):
            with compute.autocast():
                outputs = training.forward(training.parallel, images)
            training.loss(outputs, targets).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        finish(device)

    return work
