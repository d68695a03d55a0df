"""What a run tells while it goes on: metrics.jsonl, TensorBoard, and progress with time left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sceneparse.durable import replace_text

_SECONDS_PER_LINE = 15.0


class RunLog:
    """Writes one JSON line per record, and the same numbers and pictures to TensorBoard.

    metrics.jsonl has all numbers; where TensorBoard is missing or fails, `say` tells it once.
    """

    def __init__(self, run: Path, *, first_step: int, say: Callable[[str], None]) -> None:
        self._file = (run / "metrics.jsonl").open("a", encoding="utf-8")
        self._folder, self._say = run / "tensorboard", say
        self._board: Any = None
        try:
            # Imported here, since not every machine has it.
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

            self._board = SummaryWriter(str(self._folder), purge_step=first_step + 1)
        except Exception as error:
            self._go_on_without_board(error)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Record `values` under `kind` ("train", "val"); numbers become TensorBoard scalars too."""
        record = {"kind": kind, "step": step, **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._to_board("add_scalar", f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, image: NDArray[np.uint8]) -> None:
        """Show an RGB picture (H, W, 3) in TensorBoard."""
        self._to_board("add_image", name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._to_board("close")

    def _to_board(self, method: str, *arguments: object, **settings: object) -> None:
        if self._board is None:
            return
        try:
            if not any(self._folder.glob("events.*")):
                raise FileNotFoundError(f"{self._folder} has gone")
            getattr(self._board, method)(*arguments, **settings)
        except Exception as error:
            self._go_on_without_board(error)

    def _go_on_without_board(self, error: Exception) -> None:
        """Tell it once, whatever the error is: curves are not worth a run."""
        self._board = None
        self._say(f"no TensorBoard from here on ({error}); metrics.jsonl has all numbers")


def forget_records_after(path: Path, step: int) -> None:
    """Create metrics.jsonl, or drop the records of steps that a resumed run will do again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    # A killed run can leave its last line half written.
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    replace_text(path, "".join(line + "\n" for line in kept))


class Progress:
    """A bar on a terminal, a plain line every 15 seconds elsewhere: position, rate, time left.

    `done` units of `total` were finished in `seconds` before, as when a run goes on.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        *,
        done: int = 0,
        seconds: float = 0.0,
        quiet: bool = False,
    ) -> None:
        self._total, self._unit, self._count, self._first = total, unit, done, done
        self._seconds_before = seconds
        self._start = self._said = time.monotonic()
        self._quiet = quiet
        bar = not quiet and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit=unit, leave=False) if bar else None

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more units; `note` is shown beside the position."""
        self._count += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._said > _SECONDS_PER_LINE:
            self._said = time.monotonic()
            self.say(f"{note}  {self._position}")

    @property
    def _position(self) -> str:
        if self._total is None:
            return f"{self._count} {self._unit}  {self.rate:.1f}/s"
        left = format_seconds((self._total - self._count) / self.rate)
        return f"{self._count}/{self._total} {self._unit}  {self.rate:.1f}/s  {left} left"

    @property
    def seconds(self) -> float:
        """Seconds of work, those before and without pauses."""
        return self._seconds_before + time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second."""
        elapsed = max(time.monotonic() - self._start, 1e-6)
        return max(self._count - self._first, 1e-6) / elapsed

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the time of other work, such as validation, out of rate and seconds."""
        before = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - before

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


def format_seconds(seconds: float) -> str:
    """Write a duration as people do: 45s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
