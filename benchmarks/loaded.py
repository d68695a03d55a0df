"""Measure training beside a busy process, with our threads and with those of plain PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks.rows import Row, rate_row
from benchmarks.train import SCENES, STEPS, Steps
from sceneparse.data.synthetic import write_dataset
from sceneparse.runtime.threads import VARIABLES, usable_cores

# More steps than data workers have read ahead, and a pause in which they do so.
_CALLS, _PAUSE, _TURNS = 6, 0.7, 6
# What the command does before it imports PyTorch.
_SET = "from sceneparse.runtime.threads import set_threads; set_threads()\n"
_TRAIN = "import sys; from benchmarks.loaded import train; train(sys.argv[1:])"
_BUSY = "while True: pass"
_UNSET = {*VARIABLES, "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
# What is compared: the run, beside a busy process or alone. "fewer" leaves one core to that.
_PAIRS = {
    "loaded_vs_alone": ("ours loaded", "ours alone"),
    "loaded_vs_alone_plain": ("plain loaded", "plain alone"),
    "loaded_vs_alone_fewer": ("fewer loaded", "ours alone"),
    "alone_vs_plain": ("ours alone", "plain alone"),
    "loaded_vs_plain": ("ours loaded", "plain loaded"),
    "loaded_vs_plain_fewer": ("fewer loaded", "plain loaded"),
}


def measure(settings: Sequence[str] = ()) -> list[Row]:
    """Train the quickstart, with changed settings, alone and beside a busy process, in turns."""
    fewer = {"OMP_NUM_THREADS": str(max(1, usable_cores() - 1))}
    kinds: dict[str, tuple[str, dict[str, str]]] = {
        "ours": (_SET + _TRAIN, {}),
        "plain": (_TRAIN, {}),
        "fewer": (_SET + _TRAIN, fewer),
    }
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_dataset(Path(folder) / "data", SCENES, size=(256, 384))
        runs = {}
        for name, (code, variables) in kinds.items():
            own = [f"data.root={folder}/data", f"output={folder}/{name}", "data.workers=2"]
            runs[name] = stack.enter_context(_process(code, [*own, *settings], variables))
            _rate(runs[name])  # once it is ready
        neighbour = psutil.Process(stack.enter_context(_process(_BUSY, [], {})).pid)
        neighbour.suspend()
        for turn in range(_TURNS):
            for name, run in list(runs.items())[:: 1 - 2 * (turn % 2)]:  # forwards, backwards
                rates.setdefault(f"{name} alone", []).append(_rate(run))
                neighbour.resume()
                rates.setdefault(f"{name} loaded", []).append(_rate(run))
                neighbour.suspend()
    return [
        rate_row(name, rates[ours], rates[reference], "images/s")
        for name, (ours, reference) in _PAIRS.items()
    ]


@contextmanager
def _process(
    code: str, arguments: Sequence[str], variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run code, of all environment variables for threads only with these, and end it."""
    environment = {name: value for name, value in os.environ.items() if name not in _UNSET}
    process = subprocess.Popen(  # noqa: S603 - the interpreter
        [sys.executable, "-c", code, *arguments],
        env={**environment, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def train(settings: Sequence[str]) -> None:
    """Train the quickstart: for each line on stdin take steps, and print images per second."""
    from benchmarks.__main__ import prepare_recipe  # that module imports this one

    training = prepare_recipe("quickstart.yaml", ["train.steps_per_epoch=60", *settings])
    take_steps = Steps(training)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(_CALLS):
            take_steps()
        images = _CALLS * STEPS * training.sampler.batch_size
        print(images / (time.perf_counter() - start), flush=True)


def _rate(process: subprocess.Popen[str]) -> float:
    """Let a process train for some steps; return its images per second."""
    assert process.stdin is not None
    assert process.stdout is not None
    time.sleep(_PAUSE)
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())
