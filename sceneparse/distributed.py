"""One process or many (torchrun): who am I, which device, and sums over all."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from sceneparse.errors import InputError

Found = TypeVar("Found")


@dataclass(frozen=True)
class Process:
    """One process among those of the run, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0


@contextmanager
def join_processes() -> Iterator[Process]:
    """Join the processes that torchrun started (NCCL on GPUs, gloo on CPU), or be the only one."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield Process(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place; the same on every one."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on at least one process; the same answer on every one."""
    if not dist.is_initialized():
        return flag
    return bool(sum_over_processes(torch.tensor(int(flag), device=device)).item())


def share_buffers(module: nn.Module) -> None:
    """Give every process the batch norm statistics of rank 0, which is the one that saves them."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def check_on_main(process: Process, check: Callable[[], object]) -> None:
    """Run `check` on rank 0 only; where it raises, the other processes end with exit code 2."""
    failed = False
    try:
        if process.is_main:
            check()
    except InputError:
        failed = True
        raise
    finally:
        if any_process(failed, process.device) and not process.is_main:
            sys.exit(InputError.exit_code)


def from_main(process: Process, find: Callable[[], Found]) -> Found:
    """Let rank 0 find something and give it to all processes; errors are check_on_main's."""
    found: list[Found] = []
    check_on_main(process, lambda: found.append(find()))
    received: list[Any] = found or [None]
    if dist.is_initialized():
        dist.broadcast_object_list(received, src=0)
    result: Found = received[0]
    return result


def launch_name() -> str | None:
    """Name the torchrun that started this process, the same after it restarted it; else None."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    # Without --rdzv-id all are called "none".
    return f"{socket.gethostname()}:{os.getppid()}" if run == "none" else run


def restarted_by_torchrun() -> bool:
    """Whether torchrun started this process again after a failure (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
