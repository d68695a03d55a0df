"""Measure training steps of two small networks against steps of the networks alone."""

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

# Prepares a run of a recipe, a file in configs/, with changed settings.
Prepare = Callable[[str, Sequence[str]], Training]
SCENES = {"train": 48, "val": 4}
STEPS, _TURNS = 2, 60
_QUICKSTART = "quickstart.yaml"
_MOBILENET = "camvid_mobilenet.yaml"
# With random weights, of which no stage is frozen, on half of each side of the recipe's crop.
_SMALL_MOBILENET = [
    *("model.pretrained=null", "model.freeze=0", "augment.crop=[145, 193]"),
    *("data.dataset=folder", "data.cache=auto", "loss.class_weights=null"),
]
# Without a cache, each epoch decodes its images again.
_RUNS = {
    "quickstart": (_QUICKSTART, ["data.workers=2"]),
    "mobilenet": (_MOBILENET, ["data.workers=2", *_SMALL_MOBILENET]),
    "decoding": (_QUICKSTART, ["data.workers=2", "data.cache=none"]),
    "plain": (_QUICKSTART, ["data.workers=0", "data.cache=none"]),
}


def measure(prepare: Prepare) -> list[Row]:
    """Train in short turns as the quickstart and a MobileNetV2 do, and on one batch.

    train_step compares a step with the network alone, train_step_decoding a step without a cache;
    data_wait_share compares the share of time waiting for data with that of a run without cache
    and workers.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data", SCENES, size=(256, 384))
        # As many steps in an epoch as the quickstart has.
        shared = [f"data.root={folder}/data", "train.steps_per_epoch=60"]
        runs = {
            name: Steps(prepare(recipe, [*shared, f"output={folder}/{name}", *changed]))
            for name, (recipe, changed) in _RUNS.items()
        }
        alone = {
            f"{name}_alone": network_alone(runs[name].training, STEPS)
            for name in ("quickstart", "mobilenet")
        }
        # The pause lets the workers read ahead.
        seconds = in_turns({**runs, **alone}, repeats=_TURNS, pause=0.2)
        for run in runs.values():
            run.training.lock.release()
    steps = {name: [s / STEPS for s in of] for name, of in seconds.items()}
    ours, plain = (runs[name].shares(seconds[name]) for name in ("quickstart", "plain"))
    return [
        time_row("train_step", steps["quickstart"], steps["quickstart_alone"]),
        time_row("train_step_mobilenet", steps["mobilenet"], steps["mobilenet_alone"]),
        time_row("train_step_decoding", steps["decoding"], steps["quickstart_alone"]),
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
