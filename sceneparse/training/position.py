"""The position of a run and the record of its steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sceneparse.errors import NumericalError, first_few
from sceneparse.runtime.distributed import gather
from sceneparse.training.deadline import Pace, Replan

if TYPE_CHECKING:
    from sceneparse.runs.log import RunLog
    from sceneparse.runtime.progress import Progress
    from sceneparse.training.deadline import Stopwatch
    from sceneparse.training.optim import Stepped
    from sceneparse.training.pictures import Curves
    from sceneparse.training.run import Training

logger = logging.getLogger(__name__)

_STEPS_PER_RECORD = 10


@dataclass
class Position:
    """The number of finished epochs, of steps in the next one, of seconds; the best score.

    `bad_in_row`: the latest steps in a row that were skipped because their loss or gradient was not
    finite. `losses`: of the steps since the last record. `seconds`: of training; `used`: with
    validations and checkpoints.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    bad_in_row: int = 0
    losses: list[float] = field(default_factory=list)
    used: float = 0.0
    pace: Pace = field(default_factory=Pace)
    replans: list[Replan] = field(default_factory=list)


@dataclass
class Record:
    """Logs the mean loss of every few steps and the samples of skipped ones; shows progress.

    `log`: None on all processes except the main one. `curves`: drawn from it. `loss`, `score`: the
    latest mean and the latest validation, as texts.
    """

    training: Training
    log: RunLog | None
    progress: Progress
    curves: Curves
    watch: Stopwatch
    loss: str = ""
    score: str = ""

    def __post_init__(self) -> None:
        self.progress.note = self._note

    def _note(self) -> str:
        """Return the epoch, the latest loss and the latest score."""
        epoch = f"epoch {self.training.position.epoch + 1}/{self.training.last_epoch}"
        return "  ".join(part for part in (epoch, self.loss, self.score) if part)

    def add(self, stepped: Stepped, names: Sequence[str], *, bad: bool) -> None:
        """Record a step; `bad`: a loss or gradient was not finite on some process.

        Raises NumericalError after too many bad steps in a row.
        """
        training, position = self.training, self.training.position
        if bad:
            self._add_bad(stepped, names)
        else:
            position.losses.append(stepped.loss)
            if stepped.moved:
                position.bad_in_row = 0
        is_due = training.steps_done % _STEPS_PER_RECORD == 0 or training.epoch_done
        if position.losses and is_due:
            self._log_mean_loss(stepped.rates)
        self.progress.advance(training.sampler.batch_size)

    def _add_bad(self, stepped: Stepped, names: Sequence[str]) -> None:
        """Log a skipped step; all processes call it together, each with its loss and samples."""
        step, position = self.training.steps_done, self.training.position
        losses, names_by_process = zip(*gather((stepped.loss, list(names))), strict=True)
        samples = [name for part in names_by_process for name in part]
        shown = ", ".join(f"{loss:g}" for loss in losses)
        logger.warning(
            f"step {step} skipped: its loss ({shown}) or a gradient is not finite; "
            f"samples: {first_few(samples)}"
        )
        if self.log is not None:
            values = {"losses": [str(loss) for loss in losses], "samples": samples}
            self.log.write("left_out", step, values)
        position.bad_in_row += 1
        if position.bad_in_row >= self.training.most_bad_steps:
            raise NumericalError(
                f"{position.bad_in_row} steps in a row, up to step {step}, without a finite loss "
                "and gradient; lower optim.lr, or set optim.clip_norm=1 (earlier checkpoints are "
                "intact)"
            )

    def _log_mean_loss(self, rates: Sequence[float]) -> None:
        """Log the mean loss since the last record, and the learning rates of the last step."""
        position = self.training.position
        mean = sum(position.losses) / len(position.losses)
        position.losses.clear()
        self.loss = f"loss {mean:.3f}"
        if self.log is not None:
            values = {"epoch": position.epoch + 1, "loss": mean, "lr": rates[0]}
            values |= {"head_lr": rates[-1], "images_per_second": self.progress.rate}
            self.log.write("train", self.training.steps_done, values)
