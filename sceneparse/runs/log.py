"""The log of a run: metrics.jsonl and TensorBoard."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.runs.atomic import replace_text

logger = logging.getLogger(__name__)


class RunLog:
    """Writes one JSON line per record, and the same numbers and pictures to TensorBoard.

    If TensorBoard is missing or fails, a warning is logged and metrics.jsonl has all numbers.
    """

    def __init__(self, run: Path, *, first_step: int) -> None:
        self._file = (run / "metrics.jsonl").open("a", encoding="utf-8", newline="\n")
        self._folder = run / "tensorboard"
        self._board: Any = None
        try:
            # Imported here, since not every machine has it.
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

            self._board = SummaryWriter(str(self._folder), purge_step=first_step + 1)
        except Exception as error:
            self._disable_board(error)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Record `values` under `kind` ("train", "val"); numbers become TensorBoard scalars too."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._to_board("add_scalar", f"{kind}/{name}", value, step)
        for row in values.get("classes", ()):
            if row["iou"] is not None:
                self._to_board("add_scalar", f"{kind} IoU/{row['name']}", row["iou"], step)

    def settings(self, text: str, step: int) -> None:
        """Show the settings of the run, as YAML, in TensorBoard."""
        indented = "".join(f"    {line}\n" for line in text.splitlines())
        self._to_board("add_text", "settings", indented, step)

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
                raise FileNotFoundError(f"{self._folder} is gone")
            getattr(self._board, method)(*arguments, **settings)
        except Exception as error:
            self._disable_board(error)

    def _disable_board(self, error: Exception) -> None:
        """Continue without TensorBoard after any error, since metrics.jsonl has the numbers."""
        self._board = None
        logger.warning(f"no TensorBoard from here on ({error}); metrics.jsonl has all numbers")


def read_records(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run that is being written or has ended, in order."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def drop_records_after(path: Path, step: int) -> None:
    """Create metrics.jsonl, or drop the records of steps that a resumed run will repeat."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    # A killed run can leave its last line half written.
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    replace_text(path, "".join(line + "\n" for line in kept))
