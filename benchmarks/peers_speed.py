"""The training times of the networks of peers_accuracy, measured step by step in turns."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.peers_runs import REFERENCE, ROWS, Plan, Row, prepare
from benchmarks.rows import Ratio, in_turns, mean_ratio
from benchmarks.train import network_alone
from sceneparse.errors import InputError, refusing
from sceneparse.files import read_json
from sceneparse.report.tables import Table, write_json
from sceneparse.runs.lock import RunLock
from sceneparse.runtime.versions import describe_device

_STEPS, _TURNS = 5, 15


@dataclass(frozen=True)
class Speed:
    """Seconds per training step of each row, by turn; `steps`: of an epoch."""

    machine: str
    steps: int
    seconds: Mapping[str, Sequence[float]]

    def ratio(self, row: Row) -> Ratio:
        """Return the time of a row over that of REFERENCE, and its 95% interval."""
        own = self.seconds[str(row.in_equal_epochs)]
        pairs = zip(own, self.seconds[str(REFERENCE)], strict=True)
        return mean_ratio([theirs / ours for theirs, ours in pairs])

    def equal_epochs(self, row: Row, epochs: int) -> int:
        """Return how many epochs of a row fit into the time of `epochs` epochs of REFERENCE."""
        return max(int(epochs / self.ratio(row).value), 1)

    def as_text(self) -> str:
        """Format as a table."""
        lines = []
        for row in ROWS:
            middle, low, high = self.ratio(row)
            step = median(self.seconds[str(row)])
            cells = [f"{1000 * step:.1f}", f"{step * self.steps:.1f}"]
            lines.append([str(row), *cells, f"{middle:.3f}", f"{low:.3f} to {high:.3f}"])
        heads = ["", "ms per step", "s per epoch", f"time over {REFERENCE.name}", "95%"]
        return f"training on {self.machine}\n{Table('', heads, lines).as_text()}"


def speed_of(plan: Plan) -> Speed:
    """Read the speeds in the plan's folder, or measure them first.

    Raises InputError if they were measured on another machine, or another process measures now.
    """
    path, machine = plan.output / "speed.json", describe_device(plan.process.device)
    if not path.is_file():
        plan.output.mkdir(parents=True, exist_ok=True)
        lock = RunLock(plan.output)
        lock.acquire()
        try:
            measured = _measure(plan, machine)
        finally:
            lock.release()
        write_json(path, vars(measured))
    content = read_json(path, 2**20)
    with refusing(path, "holds no speeds"):
        found = Speed(**content)
        missing = [str(row) for row in ROWS if str(row) not in found.seconds]
    if found.machine != machine or missing:
        what = f"without {missing[0]}" if missing else f"on {found.machine}"
        raise InputError(
            f"'{path}' was measured {what}; this is {machine}: delete it to measure again"
        )
    return found


def _measure(plan: Plan, machine: str) -> Speed:
    """Time steps of all rows in turns: forward pass, loss, backward pass, optimiser."""
    aside = plan.output / "speed"
    runs = {str(row): replace(plan, output=aside).run(row, 0) for row in ROWS}
    trainings = {name: prepare(plan, run) for name, run in runs.items()}
    works = {name: network_alone(training, _STEPS) for name, training in trainings.items()}
    seconds = in_turns(works, repeats=_TURNS)
    for training in trainings.values():
        training.lock.release()
    shutil.rmtree(aside)
    steps = trainings[str(REFERENCE)].sampler.steps_per_epoch
    each = {name: [s / _STEPS for s in of] for name, of in seconds.items()}
    return Speed(machine, steps, each)
