"""Keep a run within its minutes: measure what its parts take, and plan as many epochs as fit."""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from sceneparse.runtime.distributed import from_main
from sceneparse.runtime.progress import format_seconds

if TYPE_CHECKING:
    from sceneparse.training.position import Record
    from sceneparse.training.run import Training

logger = logging.getLogger(__name__)

# The newest measurement counts as much as all before it.
_NEWEST = 0.5
# A plan stays if it uses this share of the time, and errs by no more than a share of the time that
# comes after the next epoch: measurements are noisy, and later plans can still correct it.
_ENOUGH, _SLACK = 0.97, 0.2
# The first validation comes by this share of the time, since its own time is a guess until then.
_GUESSED = 0.1
# A run that takes more than this share of its time says so.
_LATE = 1.1


@dataclass
class Pace:
    """Seconds of a step, a validation and a saved checkpoint, mostly of recent ones.

    0: not measured yet.
    """

    step: float = 0.0
    validation: float = 0.0
    saving: float = 0.0

    def measure(
        self, part: Literal["step", "validation", "saving"], seconds: float, weight: float = 1.0
    ) -> None:
        """Move towards a measurement; `weight` 0..1: smaller for a part of an epoch."""
        before = getattr(self, part)
        change = _NEWEST * weight * (seconds - before) if before else seconds
        setattr(self, part, before + change)


@dataclass(frozen=True)
class Replan:
    """A change of the number of epochs after a step, once `seconds_used` had passed."""

    step: int
    epochs_before: int
    epochs_after: int
    seconds_used: float


@dataclass(frozen=True)
class Forecast:
    """Predicts the seconds of a run that has done `done` epochs and a validation if one was due.

    `used`: seconds so far. `steps`: per epoch. `every`: epochs between validations; the last epoch
    always has one.
    """

    used: float
    done: int
    steps: int
    every: int
    pace: Pace

    def seconds(self, last: int) -> float:
        """Predict the seconds of the whole run if it ends after epoch `last`."""
        epochs, pace = last - self.done, self.pace
        validations = last // self.every - self.done // self.every + (last % self.every > 0)
        # The checkpoint of the epoch just done is not saved yet.
        saving = (epochs + 1) * pace.saving
        return self.used + epochs * self.steps * pace.step + validations * pace.validation + saving

    def fitting(self, limit: float, most: int) -> int:
        """Return the last epoch that fits into `limit` seconds, at least `done`, at most `most`."""
        # The time grows with the number of epochs.
        count = bisect_right(range(self.done, most + 1), limit, key=self.seconds)
        return self.done + max(count - 1, 0)

    def last_epoch(self, limit: float, *, planned: int, most: int) -> int:
        """Return the `planned` epoch if it is near enough to the limit, else the fitting one."""
        slack = _SLACK * max(limit - self.seconds(self.done + 1), 0.0)
        if _ENOUGH * limit - slack <= self.seconds(planned) <= limit + slack:
            return planned
        return self.fitting(limit, most)


class Stopwatch:
    """Adds up the seconds of a run in its position, and measures the pace of its parts."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._last, self._steps = training.clock(), training.steps_done

    def lap(self) -> float:
        """Return the seconds since the last call, which are added to those of the run."""
        last, self._last = self._last, self._training.clock()
        self._training.position.used += self._last - last
        return self._last - last

    def steps_done(self) -> None:
        """Measure the steps since the last call."""
        seconds, done = self.lap(), self._training.steps_done
        steps, self._steps = done - self._steps, done
        if steps:
            share = steps / self._training.sampler.steps_per_epoch
            self._training.position.pace.measure("step", seconds / steps, share)

    def validated(self) -> None:
        """Measure a validation."""
        self._training.position.pace.measure("validation", self.lap())

    def saved(self) -> None:
        """Measure a checkpoint, with the pictures and records before it."""
        self._training.position.pace.measure("saving", self.lap())

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; infinite without one."""
        passed = self._training.clock() - self._last
        return max(self._training.seconds_allowed - self._training.position.used - passed, 0.0)


def replan(record: Record) -> bool:
    """Change the number of epochs to what fits into the run's minutes; all processes agree.

    For the end of an epoch. The learning rate falls to its end over the steps that remain. Returns
    whether the epoch needs a validation: the run ends, or its time must be known to plan on.
    """
    training, position = record.training, record.training.position
    if training.finished or (training.minutes is None and not position.replans):
        return training.finished
    before, after = training.last_epoch, from_main(training.process, lambda: _plan(training))
    if after is None or after == before:
        return after is None
    training.stepper.end_after((after - position.epoch) * training.sampler.steps_per_epoch)
    change = Replan(training.steps_done, before, after, round(position.used, 3))
    position.replans.append(change)
    record.progress.change_total(training.steps_planned * training.sampler.batch_size)
    if record.log is not None:
        record.log.write("replan", change.step, vars(change))
    limit = "no limit" if training.minutes is None else format_seconds(training.seconds_allowed)
    logger.info(
        f"epoch {position.epoch}: {format_seconds(position.used)} of {limit} used; "
        f"the run ends after epoch {after} instead of {before}"
    )
    return training.finished


def _plan(training: Training) -> int | None:
    """Return after which epoch the run should end; None: measure a validation first."""
    if training.minutes is None:
        return training.epochs
    position, pace = training.position, training.position.pace
    unknown = not pace.validation
    if unknown:  # a guess: an image takes as long as in training
        images = training.validation_images / training.sampler.batch_size
        pace = replace(pace, validation=images * pace.step)
    every, steps = training.eval_every, training.sampler.steps_per_epoch
    forecast = Forecast(position.used, position.epoch, steps, every, pace)
    limit = training.seconds_allowed
    last = forecast.last_epoch(limit, planned=training.last_epoch, most=training.epochs)
    if unknown and (last == position.epoch or position.used > _GUESSED * limit):
        return None
    return last


def warn_of_deadline(training: Training) -> None:
    """Warn if a run ended after its first epoch, or late, since its epochs are too long."""
    position, steps = training.position, training.sampler.steps_per_epoch
    took = f"took {format_seconds(position.used)}, train.minutes={training.minutes} allows "
    took += format_seconds(training.seconds_allowed) if training.minutes is not None else ""
    remedy = f"train.steps_per_epoch, now {steps}, makes shorter epochs"
    if position.replans and training.last_epoch == 1:
        logger.warning(f"only the first epoch fits: it {took}; {remedy}")
    elif position.used > _LATE * training.seconds_allowed:
        logger.warning(f"the run {took}; it ends after a whole epoch only, and {remedy}")
