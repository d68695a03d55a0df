"""How far a run has come, and the record of its steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch.optim import Optimizer

from sceneparse.errors import NumericalError, first_few
from sceneparse.runs.log import RunLog
from sceneparse.runtime.distributed import gather
from sceneparse.runtime.progress import Progress
from sceneparse.training.optim import Stepped

logger = logging.getLogger(__name__)

_STEPS_PER_RECORD = 10


@dataclass
class Position:
    """How far a run has come: epochs finished, steps of the next one, seconds, best score.

    `bad_in_row`: the number of steps skipped last because their loss or gradient was not finite.
    `losses`: those of the steps that are not recorded yet.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    bad_in_row: int = 0
    losses: list[float] = field(default_factory=list)


class StepRecord:
    """Records the mean loss of every few steps, and the samples of skipped ones.

    `epoch`: the epoch as text, for the progress. `log`: None on all processes but the main one.
    """

    def __init__(
        self,
        position: Position,
        epoch: str,
        optimizer: Optimizer,
        *,
        most_bad_steps: int,
        log: RunLog | None,
        progress: Progress,
    ) -> None:
        self._position, self._epoch, self._optimizer = position, epoch, optimizer
        self._most_bad_steps, self._log, self._progress = most_bad_steps, log, progress
        self.note = epoch

    def add(self, stepped: Stepped) -> None:
        """Add the loss of a step."""
        self._position.losses.append(stepped.loss)
        if stepped.moved:
            self._position.bad_in_row = 0

    def add_bad(self, step: int, stepped: Stepped, names: Sequence[str]) -> None:
        """Record a skipped step; raise NumericalError after too many in a row.

        All processes call it together, each with its own loss and sample names.
        """
        losses, names_by_process = zip(*gather((stepped.loss, list(names))), strict=True)
        samples = [name for part in names_by_process for name in part]
        shown = ", ".join(f"{loss:g}" for loss in losses)
        logger.warning(
            f"step {step} skipped: its loss ({shown}) or a gradient is not finite; "
            f"samples: {first_few(samples)}"
        )
        if self._log is not None:
            values = {"losses": [str(loss) for loss in losses], "samples": samples}
            self._log.write("left_out", step, values)
        position = self._position
        position.bad_in_row += 1
        if position.bad_in_row >= self._most_bad_steps:
            raise NumericalError(
                f"{position.bad_in_row} steps in a row, up to step {step}, without a finite loss "
                "and gradient; lower optim.lr, or set optim.clip_norm=1 (earlier checkpoints are "
                "intact)"
            )

    def write(self, step: int, *, at_end: bool) -> None:
        """Write the mean loss since the last record, every few steps and at the end of an epoch."""
        losses = self._position.losses
        if not losses or (step % _STEPS_PER_RECORD and not at_end):
            return
        mean = sum(losses) / len(losses)
        losses.clear()
        self.note = f"{self._epoch}  loss {mean:.3f}"
        if self._log is None:
            return
        rates = [group["lr"] for group in self._optimizer.param_groups]
        values = {
            "epoch": self._position.epoch + 1,
            "loss": mean,
            "lr": rates[0],
            "head_lr": rates[-1],
            "images_per_second": self._progress.rate,
        }
        self._log.write("train", step, values)
