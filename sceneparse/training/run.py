"""A run from its finished parts to the end: epochs, validation, checkpoints; of either task."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from sceneparse.data.loader import Batch, explained_worker_failures
from sceneparse.errors import NumericalError, Preempted
from sceneparse.inference.normalization import Normalization
from sceneparse.report.pictures import save_png
from sceneparse.runs.lock import RunLock
from sceneparse.runs.log import RunLog
from sceneparse.runs.saving import save_checkpoint
from sceneparse.runtime.distributed import Process, any_process, any_process_each, share_buffers
from sceneparse.runtime.precision import Compute
from sceneparse.runtime.progress import Progress, format_seconds, log_to_stderr
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.loop import Forward, Stepped, Stepper, train_one_epoch
from sceneparse.training.position import Position, StepRecord
from sceneparse.training.validation import Validated

logger = logging.getLogger(__name__)

# From a network's outputs and the targets to a scalar.
Loss = Callable[[Any, Tensor], Tensor]


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
    `loss` compares its outputs with the targets, `validate` scores the network. There is a
    checkpoint after every epoch, and after every `save_every` steps (0: not within epochs); after
    `most_bad_steps` in a row without a finite loss the run gives up.
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
    save_every: int = 0
    most_bad_steps: int = 10
    stop: StopRequest = field(default_factory=StopRequest)
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

    def holds(self, position: Position) -> bool:
        """Whether a position is one that this run comes by."""
        return (
            0 <= position.epoch <= self.epochs
            and 0 <= position.step <= self.sampler.steps_per_epoch
            and 0 <= position.seconds < math.inf
        )


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
        open_things.enter_context(log_to_stderr())
        open_things.enter_context(training.stop)
        open_things.enter_context(explained_worker_failures())
        log = None
        if training.process.is_main:
            run_log = RunLog(training.folder, first_step=training.steps_done)
            log = open_things.enter_context(closing(run_log))
        while not training.finished:
            found = _train_and_validate(training, log, progress)
            save(training, found)
            stopping = any_process(training.stop.name is not None, training.process.device)
            if stopping and not training.finished:
                raise Preempted(
                    f"{training.stop.name or 'a signal'} received, saved after step "
                    f"{training.steps_done}; go on with the same command and --resume"
                )


def _train_and_validate(
    training: Training, log: RunLog | None, progress: Progress
) -> Validated | None:
    position = training.position
    ended = _train_epoch(training, log, progress)
    position.seconds = progress.seconds
    if not ended:
        return None
    position.epoch, position.step = position.epoch + 1, 0
    if not training.finished and position.epoch % training.eval_every:
        return None
    try:
        return _validate(training, log, progress)
    except Preempted:
        # The run goes on with the validation, from the end of the epoch.
        position.epoch, position.step = position.epoch - 1, training.sampler.steps_per_epoch
        return None


def _train_epoch(training: Training, log: RunLog | None, progress: Progress) -> bool:
    """Train to the end of the epoch, or to a signal; return whether the end was reached."""
    position, sampler = training.position, training.sampler
    sampler.start_at(position.epoch, position.step)
    record = StepRecord(
        position,
        f"epoch {position.epoch + 1}/{training.epochs}",
        training.stepper.optimizer,
        most_bad_steps=training.most_bad_steps,
        log=log,
        progress=progress,
    )

    def after_step(step: int, stepped: Stepped, names: Sequence[str]) -> bool:
        position.step = step
        bad = not (stepped.moved or stepped.overflow)
        stopping, bad = any_process_each(
            [training.stop.name is not None, bad], training.process.device
        )
        at_end = step == sampler.steps_per_epoch
        if bad:
            record.add_bad(training.steps_done, stepped, names)
        else:
            record.add(stepped)
        record.write(training.steps_done, at_end=at_end)
        progress.advance(sampler.batch_size, record.note)
        if training.save_every and training.steps_done % training.save_every == 0 and not at_end:
            position.seconds = progress.seconds
            with progress.paused():
                save(training)
        return not stopping

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
    return position.step == sampler.steps_per_epoch


def _validate(training: Training, log: RunLog | None, progress: Progress) -> Validated:
    """Score the network as it is now; log it, with a picture where there is one."""
    share_buffers(training.evaluated)
    with progress.paused():
        found = training.validate(training.evaluated)
    position = training.position
    logger.info(
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
        logger.info(found.table)
    return found


def save(training: Training, found: Validated | None = None) -> None:
    """Save a checkpoint of the run as it is now; raise NumericalError rather than save NaN."""
    position = training.position
    if found is not None and found.score > position.best:
        position.best, position.best_step = found.score, training.steps_done
    weights, own = training.evaluated.state_dict(), training.model.state_dict()
    if not all(tensor.isfinite().all() for tensor in (*weights.values(), *own.values())):
        raise NumericalError(
            f"weights are not finite after step {training.steps_done}; lower optim.lr, or set "
            "optim.clip_norm=1 (what was saved is intact)"
        )
    if not training.process.is_main:
        return
    save_checkpoint(
        training.folder,
        step=training.steps_done,
        best_step=position.best_step,
        weights=weights,
        training={
            "model": own,
            "stepper": training.stepper.state_dict(),
            "position": vars(position),
        },
        meta={**training.meta, **vars(position), "processes": training.process.world_size},
    )
