"""A run from its finished parts to the end: epochs, validation, checkpoints; of either task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sceneparse.checkpoint import save_checkpoint
from sceneparse.data.loader import Batch, explained_worker_failures
from sceneparse.distributed import Process, any_process, share_buffers
from sceneparse.engine import Forward, Stepper, train_one_epoch
from sceneparse.errors import NumericalError, Preempted
from sceneparse.inference.normalization import Normalization
from sceneparse.logs import Progress, RunLog, format_seconds
from sceneparse.precision import Compute
from sceneparse.preemption import StopRequest
from sceneparse.report.pictures import save_png
from sceneparse.run_lock import RunLock
from sceneparse.validation import Validated

# From a network's outputs and the targets to a scalar.
Loss = Callable[[Any, Tensor], Tensor]

_STEPS_PER_RECORD = 10


@dataclass
class Position:
    """How far a run has come: epochs finished, steps of the next one, seconds, best score."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0


class Order(Protocol):
    """Which samples come when; the batches that are read next begin where it was told to start."""

    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass."""

    def start_at(self, epoch: int, step: int) -> None:
        """Let the next pass be `epoch`, without its first `step` steps."""


@dataclass
class Training:
    """The finished parts of a run.

    `batches` gives those of one pass in `sampler`'s order, `forward` runs the network on images,
    `loss` compares its outputs with the targets, `validate` scores the network.
    """

    folder: Path
    process: Process
    compute: Compute
    normalize: Normalization
    sampler: Order
    batches: Callable[[], Iterable[Batch]]
    validate: Callable[[nn.Module], Validated]
    model: nn.Module
    parallel: nn.Module
    forward: Forward
    stepper: Stepper
    epochs: int
    eval_every: int
    accumulate: int
    loss: Loss
    seed: int
    meta: dict[str, Any]
    lock: RunLock
    position: Position = field(default_factory=Position)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where there is one."""
        averaged = self.stepper.averaged
        return self.model if averaged is None else averaged.module

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the start of the run."""
        return self.position.epoch * self.sampler.steps_per_epoch + self.position.step

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position.epoch == self.epochs


def train(training: Training) -> None:
    """Run the remaining epochs, with validation and a checkpoint after each; raise Preempted."""
    position, batch_size = training.position, training.sampler.batch_size
    progress = Progress(
        training.epochs * training.sampler.steps_per_epoch * batch_size,
        "images",
        done=training.steps_done * batch_size,
        seconds=position.seconds,
        quiet=not training.process.is_main,
    )
    with ExitStack() as open_things:
        open_things.callback(training.lock.release)
        open_things.callback(progress.close)
        stop = open_things.enter_context(StopRequest())
        open_things.enter_context(explained_worker_failures())
        log = None
        if training.process.is_main:
            run_log = RunLog(training.folder, first_step=training.steps_done)
            log = open_things.enter_context(closing(run_log))
        while not training.finished:
            found = _train_and_validate(training, log, progress, stop)
            _save(training, found)
            stopping = any_process(stop.name is not None, training.process.device)
            if stopping and not training.finished:
                raise Preempted(
                    f"{stop.name or 'a signal'} received, saved after step {training.steps_done}; "
                    "go on with the same command and --resume"
                )


def _train_and_validate(
    training: Training, log: RunLog | None, progress: Progress, stop: StopRequest
) -> Validated | None:
    position = training.position
    ended = _train_epoch(training, log, progress, stop)
    position.seconds = progress.seconds
    if not ended:
        return None
    position.epoch, position.step = position.epoch + 1, 0
    if not training.finished and position.epoch % training.eval_every:
        return None
    return _validate(training, log, progress)


def _train_epoch(
    training: Training, log: RunLog | None, progress: Progress, stop: StopRequest
) -> bool:
    """Train to the end of the epoch, or to a signal; return whether the end was reached."""
    position, sampler = training.position, training.sampler
    sampler.start_at(position.epoch, position.step)
    record = _LossRecord(training, log, progress)

    def after_step(step: int, loss: Tensor) -> bool:
        position.step = step
        record.add(loss)
        progress.advance(sampler.batch_size, record.note)
        return not any_process(stop.name is not None, training.process.device)

    train_one_epoch(
        training.parallel,
        training.batches(),
        training.stepper,
        forward=training.forward,
        loss_function=training.loss,
        normalize=training.normalize,
        compute=training.compute,
        accumulate=training.accumulate,
        seed=(training.seed, training.process.rank, position.epoch),
        first_step=position.step,
        after_step=after_step,
    )
    record.check()
    return position.step == sampler.steps_per_epoch


class _LossRecord:
    """Averages the loss over some steps and writes it down; reads the device only then."""

    def __init__(self, training: Training, log: RunLog | None, progress: Progress) -> None:
        self._training, self._log, self._progress = training, log, progress
        self._losses: list[Tensor] = []
        self._epoch = f"epoch {training.position.epoch + 1}/{training.epochs}"
        self.note = self._epoch

    def add(self, loss: Tensor) -> None:
        """Take the loss of one more step; the last of an epoch is always written down."""
        self._losses.append(loss)
        training = self._training
        step = training.steps_done
        at_end = training.position.step == training.sampler.steps_per_epoch
        if step % _STEPS_PER_RECORD and not at_end:
            return
        mean = self.check()
        self.note = f"{self._epoch}  loss {mean:.3f}"
        if self._log is None:
            return
        rates = [group["lr"] for group in training.stepper.optimizer.param_groups]
        values = {
            "epoch": training.position.epoch + 1,
            "loss": mean,
            "lr": rates[0],
            "head_lr": rates[-1],
            "images_per_second": self._progress.rate,
        }
        self._log.write("train", step, values)

    def check(self) -> float:
        """Return the mean loss since the last call; raise NumericalError where it is not finite."""
        mean = torch.stack(self._losses).mean().item() if self._losses else 0.0
        self._losses.clear()
        if not math.isfinite(mean):
            raise NumericalError(
                f"the loss is {mean} at step {self._training.steps_done}; lower optim.lr, or set "
                "optim.clip_norm=1 (the last checkpoint is intact)"
            )
        return mean


def _validate(training: Training, log: RunLog | None, progress: Progress) -> Validated:
    """Score the network as it is now; log it, with a picture where there is one."""
    share_buffers(training.evaluated)
    with progress.paused():
        found = training.validate(training.evaluated)
    position = training.position
    progress.say(
        f"epoch {position.epoch}/{training.epochs}  {found.words}  "
        f"(best {max(position.best, found.score):.4f})  trained {format_seconds(progress.seconds)}"
    )
    if log is None:
        return found
    seconds = round(progress.seconds, 1)
    values = {"epoch": position.epoch, "seconds": seconds, **found.values}
    log.write("val", training.steps_done, values)
    if found.picture is not None:
        log.picture("val", training.steps_done, found.picture)
        name = f"epoch-{position.epoch:04d}.png"
        save_png(found.picture, training.folder / "pictures" / name)
    if training.finished and found.table:
        progress.say(found.table)
    return found


def _save(training: Training, found: Validated | None) -> None:
    position = training.position
    if found is not None and found.score > position.best:
        position.best, position.best_step = found.score, training.steps_done
    if not training.process.is_main:
        return
    save_checkpoint(
        training.folder,
        step=training.steps_done,
        best_step=position.best_step,
        weights=training.evaluated.state_dict(),
        training={
            "model": training.model.state_dict(),
            "stepper": training.stepper.state_dict(),
            "position": vars(position),
        },
        meta={**training.meta, **vars(position)},
    )
