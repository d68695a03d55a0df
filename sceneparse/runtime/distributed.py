"""One process or many (torchrun): who am I, which device, and sums over all."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

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
    _meet("nccl" if cuda else "gloo")
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), device)
    except RuntimeError as error:
        # gloo has no types of its own for a peer that is gone.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise InputError("another process of the run has ended; see what it said") from error
        raise
    finally:
        dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Form the group of processes, at a place of its own for every time torchrun starts them.

    torchrun keeps its store when it restarts processes (torch 2.14); in it they would find the
    addresses of the dead ones, and wait for those.
    """
    store, rank, world_size = next(rendezvous("env://"))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"start {start}", store)  # type: ignore[attr-defined] # missing in stubs
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size)


def parallel_network(model: nn.Module, process: Process, *, accumulate: int = 1) -> nn.Module:
    """Let several processes share the gradients of a network, summed every `accumulate` passes.

    What is summed early while the rest is still computed is learnt once in a static graph. With
    several passes to a sum torch 2.14 fails in one (pytorch/pytorch pull request 187732).
    """
    if process.world_size == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[process.device.index] if process.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=accumulate == 1,
    )


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place; the same on every one."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on at least one process; the same answer on every one."""
    return any_process_each([flag], device)[0]


def any_process_each(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Say of each flag whether it is set on at least one process, in one exchange."""
    if not dist.is_initialized():
        return list(flags)
    counts = sum_over_processes(torch.tensor(flags, dtype=torch.int64, device=device))
    return [count > 0 for count in counts.tolist()]


def gather(value: Found) -> list[Found]:
    """Collect a value of every process, by rank, on every one."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


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
