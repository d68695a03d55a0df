"""A segmentation run from its finished parts to the end: epochs, validation, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sceneparse.checkpoint import save_checkpoint
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.doctor import spread
from sceneparse.data.loader import batches, explained_worker_failures
from sceneparse.data.sampling import EpochSampler
from sceneparse.distributed import Process, any_process, share_buffers
from sceneparse.engine import Stepper, evaluate, train_one_epoch
from sceneparse.errors import NumericalError, Preempted
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.protocols import Protocol
from sceneparse.logs import Progress, RunLog, format_seconds
from sceneparse.metrics.confusion import ConfusionMatrix, Scores, scores_from_counts
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.precision import Compute
from sceneparse.preemption import StopRequest
from sceneparse.report.pictures import ExampleCollector, example_grid, save_png
from sceneparse.report.tables import score_table, scores_as_dict, totals_of, totals_table

# From a network's outputs and the targets to a scalar.
Loss = Callable[[dict[str, Tensor], Tensor], Tensor]

_STEPS_PER_RECORD = 10
_EXAMPLES = 4


@dataclass
class Position:
    """How far a run has come: epochs finished, steps of the next one, seconds, best mean IoU."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0


@dataclass
class Training:
    """The finished parts of a run."""

    folder: Path
    process: Process
    compute: Compute
    normalize: Normalization
    sampler: EpochSampler
    loader: DataLoader[Any]
    val_set: SegmentationDataset
    val_loader: DataLoader[Any]
    protocol: Protocol
    model: SegmentationModel
    parallel: nn.Module
    stepper: Stepper
    epochs: int
    eval_every: int
    accumulate: int
    loss: Loss
    seed: int
    meta: dict[str, Any]
    position: Position = field(default_factory=Position)

    @property
    def evaluated(self) -> SegmentationModel:
        """The network that is validated and saved: the averaged one where there is one."""
        averaged = self.stepper.averaged
        return self.model if averaged is None else cast("SegmentationModel", averaged.module)

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
        open_things.callback(progress.close)
        stop = open_things.enter_context(StopRequest())
        open_things.enter_context(explained_worker_failures())
        log = None
        if training.process.is_main:
            run_log = RunLog(training.folder, first_step=training.steps_done)
            log = open_things.enter_context(closing(run_log))
        while not training.finished:
            scores = _train_and_validate(training, log, progress, stop)
            _save(training, scores)
            stopping = any_process(stop.name is not None, training.process.device)
            if stopping and not training.finished:
                raise Preempted(
                    f"{stop.name or 'a signal'} received, saved after step {training.steps_done}; "
                    "go on with the same command and --resume"
                )


def _train_and_validate(
    training: Training, log: RunLog | None, progress: Progress, stop: StopRequest
) -> Scores | None:
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
        batches(training.loader),
        training.stepper,
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


def _validate(training: Training, log: RunLog | None, progress: Progress) -> Scores:
    """Score the validation split at the images' own size; log it, with a picture of examples."""
    table = training.val_set.table
    share_buffers(training.evaluated)
    pairs = training.val_set.pairs
    collector = ExampleCollector({pairs[index].name for index in spread(len(pairs), _EXAMPLES)})
    matrix = ConfusionMatrix(table.num_classes, table.ignore_index, device=training.compute.device)
    with progress.paused():
        evaluate(
            training.evaluated,
            batches(training.val_loader),
            [matrix],
            infer=training.protocol,
            normalize=training.normalize,
            compute=training.compute,
            after_batch=collector.add,
        )
    scores = scores_from_counts(matrix.counts.cpu().numpy())
    position = training.position
    progress.say(
        f"epoch {position.epoch}/{training.epochs}  val mean IoU {scores.mean_iou:.4f} "
        f"(best {max(position.best, scores.mean_iou):.4f})  "
        f"pixel accuracy {scores.pixel_accuracy:.4f}  trained {format_seconds(progress.seconds)}"
    )
    if log is None:
        return scores
    result = scores_as_dict(scores, table.names, training.protocol.words)
    values = {"epoch": position.epoch, "seconds": round(progress.seconds, 1), **result}
    log.write("val", training.steps_done, values)
    grid = example_grid(collector.examples, table.names, table.colors)
    log.picture("val", training.steps_done, grid)
    save_png(grid, training.folder / "pictures" / f"epoch-{position.epoch:04d}.png")
    if training.finished:
        progress.say(score_table(scores, table.names))
        progress.say("\n" + totals_table(totals_of(scores), {}))
    return scores


def _save(training: Training, scores: Scores | None) -> None:
    position = training.position
    is_best = scores is not None and scores.mean_iou > position.best
    if scores is not None and is_best:
        position.best = scores.mean_iou
    if not training.process.is_main:
        return
    save_checkpoint(
        training.folder,
        step=training.steps_done,
        weights=training.evaluated.state_dict(),
        training={
            "model": training.model.state_dict(),
            "stepper": training.stepper.state_dict(),
            "position": vars(position),
        },
        meta={**training.meta, **vars(position)},
        is_best=is_best,
    )
