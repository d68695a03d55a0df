"""One process or many (torchrun): rank, device, and sums over all processes."""

import atexit
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from sceneparse.errors import InputError
from sceneparse.runtime.devices import DEVICE_TYPES, choose_device, validate_compile

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

# Seconds that gloo's threads get to free the tensors of the last exchange.
_SETTLING = 0.5


@dataclass(frozen=True)
class Process:
    """One process among those of the run, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


@contextmanager
def join_processes(
    device_name: str | None = None, types: Sequence[str] = DEVICE_TYPES
) -> Iterator[Process]:
    """Join the processes that torchrun started, or be the only one.

    `device_name`, `types`: see choose_device. Uses NCCL on GPUs and gloo on CPUs. Raises InputError
    if the device is missing, or if another process of the run ends.
    """
    device = _own_device(device_name, types)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield Process(0, 1, device)
        return
    # torchrun keeps its store when it restarts processes (torch 2.14). Without keys of their own
    # they would find the addresses of the dead ones there, and wait for them.
    store, rank, world_size = next(rendezvous("env://"))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"start {start}", store)  # type: ignore[attr-defined] # missing in stubs
    backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "gloo":
        # A thread of gloo that frees a tensor while Python shuts down aborts the process (torch
        # 2.14). It does so late on a busy machine, and nothing tells when it has.
        atexit.register(time.sleep, _SETTLING)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size)
    try:
        yield Process(rank, world_size, device)
    except RuntimeError as error:
        # gloo has no exception type of its own for a lost peer.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise InputError("another process of the run has ended; see its error") from error
        raise
    finally:
        dist.destroy_process_group()


def _own_device(name: str | None, types: Sequence[str]) -> torch.device:
    """Return the device of this process: several processes have a GPU each, or share the CPU."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and name is not None and name.startswith(("cuda:", "mps")):
        raise InputError(
            f"{count} processes cannot share the device '{name}'; use cuda or cpu, or start the "
            "command without torchrun"
        )
    device = choose_device(name, types)
    if count > 1 and device.type == "mps":
        logger.info(f"device: cpu, since {count} processes cannot share mps")
        device = torch.device("cpu")
    if device == torch.device("cuda"):
        device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}", types)
    return device


def parallel_network(
    model: nn.Module, process: Process, *, accumulate: int = 1, compiled: bool = False
) -> nn.Module:
    """Compile a network if asked to, and sum its gradients over all processes.

    They are summed every `accumulate` passes. A single process needs no wrapper. Raises InputError
    if networks cannot be compiled for the device.
    """
    if compiled:
        validate_compile(process.device)
        model = torch.compile(model)  # type: ignore[assignment]
    if process.world_size == 1:
        return model
    return DistributedDataParallel(
        model,
        device_ids=[process.device.index] if process.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        # DDP learns once which gradients it can sum while the rest is still being computed. With
        # several passes per sum it fails in torch 2.14 (pytorch/pytorch pull request 187732).
        static_graph=accumulate == 1,
    )


def sum_over_processes(tensor: Tensor) -> None:
    """Sum a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)


def any_process(device: torch.device, *flags: bool) -> list[bool]:
    """Return for each flag whether it is set on at least one process, in one exchange."""
    if not dist.is_initialized():
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int64, device=device)
    dist.all_reduce(counts)
    return [count > 0 for count in counts.tolist()]


def gather(value: Value) -> list[Value]:
    """Return the values of all processes by rank, on every process."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def share_buffers(module: nn.Module) -> None:
    """Copy the batch norm statistics of rank 0, which saves them, to every process."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def from_main(process: Process, work: Callable[[], Value]) -> Value:
    """Return the result of `work` on rank 0, on every process.

    If it raises InputError there, the other processes exit with code 2.
    """
    result: list[Any] = [None]
    failed = False
    try:
        if process.is_main:
            result = [work()]
    except InputError:
        failed = True
        raise
    finally:
        if any_process(process.device, failed)[0] and not process.is_main:
            sys.exit(InputError.exit_code)
    if dist.is_initialized():
        dist.broadcast_object_list(result, src=0)
    return cast("Value", result[0])


def launch_name() -> str | None:
    """Return a name of the torchrun command that started this process, if any.

    The name stays the same when torchrun restarts the process.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    # Without --rdzv-id every run is called "none".
    return f"{socket.gethostname()}:{os.getppid()}" if run == "none" else run


def restarted_by_torchrun() -> bool:
    """Return whether torchrun restarted this process after a failure (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
