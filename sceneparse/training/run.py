"""Run epochs, validation and checkpoints, from the parts of a run of either task."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from sceneparse.data.device_loader import DeviceLoader
from sceneparse.data.loader import Batch, explained_worker_failures
from sceneparse.data.sampling import EpochSampler
from sceneparse.errors import NumericalError, Preempted
from sceneparse.inference.normalization import Normalization
from sceneparse.report.pictures import save_png
from sceneparse.runs.checkpoint import save_checkpoint
from sceneparse.runs.log import RunLog
from sceneparse.runtime.distributed import any_process, share_buffers
from sceneparse.runtime.progress import Progress, format_seconds, log_to_stderr
from sceneparse.training.deadline import Stopwatch, replan, warn_of_deadline
from sceneparse.training.loop import Forward, train_one_epoch
from sceneparse.training.optim import Stepped, Stepper
from sceneparse.training.pictures import Curves, drawing
from sceneparse.training.position import Position, Record
from sceneparse.training.start import Start
from sceneparse.training.validation import Validated

logger = logging.getLogger(__name__)

# From a network's outputs and the targets to a scalar.
Loss = Callable[[Any, Tensor], Tensor]


@dataclass(kw_only=True)
class Training(Start):
    """The finished parts of a run.

    `batches` reads one epoch in `sampler`'s order, `forward` runs the network on images, `loss`
    compares its outputs with the targets, `validate` scores the network. A checkpoint is saved
    after every epoch, and after every `save_every` steps (0: only after epochs). The run ends with
    an error after `most_bad_steps` steps in a row without a finite loss and gradient. `meta`: what
    checkpoints store to rebuild the model. `minutes`: the run ends after as many of its `epochs` as
    fit, by `clock`, which counts seconds. `validation_images`: an estimate of a validation's time
    before the first one.
    """

    normalize: Normalization
    sampler: EpochSampler | DeviceLoader
    batches: Callable[[], Iterable[Batch]]
    validate: Callable[[nn.Module], Validated]
    model: nn.Module
    parallel: nn.Module
    forward: Forward
    stepper: Stepper
    epochs: int
    loss: Loss
    seed: int
    meta: dict[str, Any]
    eval_every: int = 1
    accumulate: int = 1
    save_every: int = 0
    most_bad_steps: int = 10
    minutes: float | None = None
    validation_images: int = 0
    clock: Callable[[], float] = time.monotonic
    position: Position = field(default_factory=Position)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the averaged one if there is one."""
        averaged = self.stepper.averaged
        return self.model if averaged is None else averaged.module

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the start of the run."""
        return self.position.epoch * self.sampler.steps_per_epoch + self.position.step

    @property
    def epoch_done(self) -> bool:
        """Whether all steps of the current epoch are done."""
        return self.position.step == self.sampler.steps_per_epoch

    @property
    def last_epoch(self) -> int:
        """The epoch that ends the run: `epochs`, or what fits into its minutes."""
        replans = self.position.replans
        return min(self.epochs, replans[-1].epochs_after) if replans else self.epochs

    @property
    def steps_planned(self) -> int:
        """Optimiser steps of the whole run."""
        return self.last_epoch * self.sampler.steps_per_epoch

    @property
    def seconds_allowed(self) -> float:
        """The most seconds that the run may take; infinite without `minutes`."""
        return math.inf if self.minutes is None else 60 * self.minutes

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position.epoch >= self.last_epoch


def train(training: Training) -> None:
    """Run the remaining epochs, each with validation and a checkpoint.

    Raises Preempted after a signal, once the state is saved, and NumericalError if the loss stays
    infinite or NaN.
    """
    with _opened(training) as record:
        record.watch.lap()
        while not training.finished:
            _take_steps(epoch_steps(training), record)
            save(training, _end_epoch(record))
            record.watch.saved()
            (stopping,) = any_process(training.process.device, training.stop.name is not None)
            if stopping and not training.finished:
                raise Preempted(
                    f"{training.stop.name or 'a signal'} received, saved after step "
                    f"{training.steps_done}; resume with the same command and --resume"
                )
        warn_of_deadline(training)


def epoch_steps(training: Training) -> Iterator[tuple[int, Stepped, list[str]]]:
    """Take the steps that remain of the current epoch, see `train_one_epoch`."""
    position = training.position
    training.sampler.start_at(position.epoch, position.step)
    return train_one_epoch(
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
    )


@contextmanager
def _opened(training: Training) -> Iterator[Record]:
    """Open the run's log (on the main process only), progress and signal handlers; close them."""
    batch_size, is_main = training.sampler.batch_size, training.process.is_main
    watch = Stopwatch(training)
    progress = Progress(
        "train",
        training.steps_planned * batch_size,
        "images",
        done=training.steps_done * batch_size,
        seconds=training.position.seconds,
        quiet=not is_main,
        most_left=lambda: watch.seconds_left,
        is_run=True,
    )
    curves = Curves(training.folder, training.sampler.steps_per_epoch)
    with ExitStack() as stack:
        stack.callback(training.lock.release)
        stack.enter_context(closing(progress))
        stack.enter_context(log_to_stderr())
        stack.enter_context(training.stop)
        stack.enter_context(explained_worker_failures())
        log = RunLog(training.folder, first_step=training.steps_done) if is_main else None
        if log is not None:
            stack.callback(log.close)
            settings = (training.folder / "config.yaml").read_text(encoding="utf-8")
            log.settings(settings, training.steps_done)
        yield Record(training, log, progress, curves, watch)


def _take_steps(steps: Iterable[tuple[int, Stepped, list[str]]], record: Record) -> None:
    """Take the steps of an epoch, to its end or to a signal: record them and save if it is time."""
    training, position = record.training, record.training.position
    for position.step, stepped, names in steps:
        bad = not (stepped.moved or stepped.overflow)
        stopping = training.stop.name is not None
        stopping, bad = any_process(training.process.device, stopping, bad)
        record.add(stepped, names, bad=bad)
        due = training.save_every and training.steps_done % training.save_every == 0
        if due and not training.epoch_done:
            position.seconds = record.progress.seconds
            record.watch.steps_done()
            with record.progress.paused():
                save(training)
        if stopping:
            return


def _end_epoch(record: Record) -> Validated | None:
    """Count a finished epoch and validate if it is time; None: there was no whole validation."""
    training, position = record.training, record.training.position
    position.seconds = record.progress.seconds
    record.watch.steps_done()
    if not training.epoch_done:
        return None
    position.epoch, position.step = position.epoch + 1, 0
    if position.epoch % training.eval_every and not replan(record):
        return None
    share_buffers(training.evaluated)
    try:
        with record.progress.paused():
            found = training.validate(training.evaluated)
    except Preempted:
        record.watch.lap()
        # The resumed run starts with the validation, at the end of the epoch.
        position.epoch, position.step = position.epoch - 1, training.sampler.steps_per_epoch
        return None
    record.score = found.headline
    record.watch.validated()
    replan(record)
    _log_validation(record, found)
    return found


def _log_validation(record: Record, found: Validated) -> None:
    """Log the result of a validation, and write the pictures."""
    training, position, log = record.training, record.training.position, record.log
    seconds = record.progress.seconds
    logger.info(
        f"epoch {position.epoch}/{training.last_epoch}  {found.headline}  {found.details}  "
        f"(best {max(position.best, found.score):.4f})  trained {format_seconds(seconds)}"
    )
    if log is None:
        return
    values = {"epoch": position.epoch, "seconds": round(seconds, 1), **found.values}
    log.write("val", training.steps_done, values)
    if found.picture is not None:
        log.picture("val", training.steps_done, found.picture)
        save_png(found.picture, training.folder / f"pictures/epoch-{position.epoch:04d}.png")
    if found.draw_worst is not None and found.score > position.best:
        with drawing(training.folder / "worst.png"):
            save_png(found.draw_worst(), training.folder / "worst.png")
    record.curves.draw(finished=training.finished)
    if training.finished and found.table:
        logger.info(found.table)


def save(training: Training, found: Validated | None = None) -> None:
    """Save a checkpoint of the run as it is now, with the result of a validation if there is one.

    Raises NumericalError instead of saving infinite or NaN weights, and InputError if the disk is
    full or read-only.
    """
    position = training.position
    if found is not None and found.score > position.best:
        position.best, position.best_step = found.score, training.steps_done
    weights, own = training.evaluated.state_dict(), training.model.state_dict()
    if not all(tensor.isfinite().all() for tensor in (*weights.values(), *own.values())):
        raise NumericalError(
            f"weights are not finite after step {training.steps_done}; lower optim.lr, or set "
            "optim.clip_norm=1 (earlier checkpoints are intact)"
        )
    if not training.process.is_main:
        return
    place = asdict(position)
    save_checkpoint(
        training.folder,
        step=training.steps_done,
        best_step=position.best_step,
        weights=weights,
        training={
            "model": own,
            "stepper": training.stepper.state_dict(),
            "position": place,
        },
        meta={**training.meta, **place, "processes": training.process.world_size},
    )
