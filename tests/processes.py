"""Training in processes to be stopped and killed, forked from one that has imported everything.

The server imports, but never computes: a copy of a process whose threads have computed would hang.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

from sceneparse.models.stored import resolve_checkpoint
from sceneparse.runs.checkpoint import newest_intact

ROOT = Path(__file__).parents[1]
CONFIGS = {
    "train": ROOT / "configs" / "quickstart.yaml",
    "classify": ROOT / "configs" / "cifar10_resnet18.yaml",
}
# Windows has no fork server, and spawns.
METHODS = multiprocessing.get_all_start_methods()
forkserver = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
forkserver.set_forkserver_preload(
    [
        "sceneparse.training.segmentation",
        "sceneparse.training.classification",
        "sceneparse.studies.seeds",
        "sceneparse.cli.evaluate",
        "sceneparse.evaluation.page",
        "torch.utils.tensorboard",
        "tests.processes",
    ]
)


class Run:
    """A training command at work, with what it prints in a file.

    `freeze_at`: it stops itself (SIGSTOP) once the checkpoint of this step is in its place.
    """

    def __init__(
        self, verb: str, settings: Sequence[str], *options: str, freeze_at: int | None = None
    ) -> None:
        folder = Path([s.partition("=")[2] for s in settings if s.startswith("output=")][-1])
        self.folder = folder / "seed-0" if verb == "classify" else folder
        self.log = folder.with_name(f"{folder.name}.log")
        arguments = ["--config", str(CONFIGS[verb]), *settings, *options]
        self._process: BaseProcess = forkserver.Process(
            target=_main, args=(verb, arguments, str(self.log), freeze_at)
        )
        self._process.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Return the exit code, negative where a signal ended the process."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise AssertionError(f"no end within {seconds} s:\n{self.said}")
        return code

    def wait_for(
        self, happened: Callable[[], object], seconds: float = 300, every: float = 0.002
    ) -> None:
        """Return as soon as something happened, or the process has ended."""
        end = time.monotonic() + seconds
        while not happened() and self._process.is_alive():
            assert time.monotonic() < end, self.said
            time.sleep(every)

    def is_frozen(self) -> bool:
        """Say whether it has stopped itself."""
        return self.process.status() == psutil.STATUS_STOPPED

    def handles(self, number: signal.Signals) -> bool:
        """Say whether it has a handler of its own for a signal yet (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", status, flags=re.MULTILINE)
        return bool(int(caught, 16) >> (number - 1) & 1)

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that this one has started: data workers, and what starts them."""
        return self.process.children(recursive=True)

    @property
    def process(self) -> psutil.Process:
        """The process as the system sees it."""
        return psutil.Process(self._process.pid)

    @property
    def said(self) -> str:
        """All that runs in this folder have said so far."""
        return self.log.read_text()

    def saved_step(self) -> int:
        """Return the newest intact checkpoint's step; 0: there is none."""
        saved = newest_intact(self.folder)
        return 0 if saved is None else int(saved.meta["step"])


def _main(verb: str, arguments: list[str], log: str, freeze_at: int | None = None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(ROOT)
    if freeze_at is not None:
        _freeze_when_saved(f"step-{freeze_at:08d}")
    from sceneparse.cli.command import run  # noqa: PLC0415 - not in the process that tests

    module = importlib.import_module(f"sceneparse.cli.{verb}")
    run(module.parser(), module.main, arguments)


def _freeze_when_saved(name: str) -> None:
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if moved.name == name:
            os.kill(os.getpid(), signal.SIGSTOP)
        return moved

    Path.rename = renamed  # type: ignore[method-assign,assignment]


def run_ranks(arguments: Sequence[object], processes: int, log: Path) -> None:
    """Run `sceneparse evaluate` in several processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [str(argument) for argument in arguments]
    ranks = [
        forkserver.Process(target=_rank, args=(rank, world, words, str(log)))
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
    assert [rank.exitcode for rank in ranks] == [0] * processes, log.read_text()


def _rank(rank: int, world: dict[str, str], arguments: list[str], log: str) -> None:
    os.environ |= {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    _main("evaluate", arguments, log)


def finish(verb: str, settings: Sequence[str], *options: str) -> Path:
    """Train to the end; return the run folder."""
    run = Run(verb, settings, *options)
    assert run.wait() == 0, run.said
    return run.folder


def state_of(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a run's last checkpoint: weights, averages, momenta."""
    last = resolve_checkpoint(folder / "last")
    state = torch.load(last / "training.pt", weights_only=True)
    optimizer = state["stepper"]["optimizer"]["state"]
    momenta = {f"{i}.{k}": v for i, own in optimizer.items() for k, v in own.items()}
    tensors = {"model": state["model"], "averaged": state["stepper"].get("averaged", {})}
    tensors |= {"saved": load_file(last / "model.safetensors"), "momenta": momenta}
    return {f"{part} {name}": value for part, own in tensors.items() for name, value in own.items()}


def assert_same_state(folder: Path, expected: Path) -> None:
    """Compare the last checkpoints of two runs bit for bit."""
    ours, theirs = state_of(folder), state_of(expected)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
