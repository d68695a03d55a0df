"""Batches for training and evaluation, read and augmented by worker processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.sampling import Draw, EpochSampler
from sceneparse.data.transforms import apply_seeded
from sceneparse.errors import InputError

if TYPE_CHECKING:
    import albumentations as A

with suppress(ImportError):  # missing on Windows
    import fcntl
    import resource


_MAX_PIPED, _PIPE_SIZE = 2**21, 2**20  # bytes


class Batch(NamedTuple):
    """Images uint8 (B, 3, H, W), targets of train ids (B, H, W), and the names of the samples."""

    images: Tensor
    targets: Tensor
    names: tuple[str, ...]


# What a worker sends through the pipe: images, targets and names of a batch.
Piped = tuple[NDArray[Any], NDArray[Any], tuple[str, ...]]


class TensorSamples(Dataset[Any]):
    """Samples as tensors, augmented if there is a transform; a draw always gives the same sample.

    The error of an unusable file is returned, not raised: if a worker raised it, it would reach the
    main process wrapped in another traceback.
    """

    def __init__(
        self, dataset: SegmentationDataset, transform: A.Compose | None = None, seed: int = 0
    ) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor, str] | InputError:
        try:
            image, mask, name = self.dataset[draw.index]
            if self.transform is not None:
                repeat = (draw.repeat,) if draw.repeat else ()
                seed = (self.seed, draw.epoch, draw.index, *repeat)
                image, mask = apply_seeded(self.transform, image, mask, seed, draw.wanted_class)
        except InputError as error:
            return error
        except Exception as error:
            file = self.dataset.pairs[draw.index].image
            raise RuntimeError(f"{file}: {type(error).__name__}: {error}") from error
        # torch computes with 32-bit labels, not with 16-bit ones.
        labels = np.array(mask if mask.dtype == np.uint8 else mask.astype(np.int32))
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))
        return torch.from_numpy(channels_first), torch.from_numpy(labels), name


def _collate(samples: Sequence[Any], *, piped: bool) -> Batch | Piped | InputError:
    """Join samples to a batch; `piped`: a worker sends a small one through the pipe.

    That is sooner than shared memory, which takes a file and a connection per tensor, and new pages
    in both processes.
    """
    error = next((sample for sample in samples if isinstance(sample, InputError)), None)
    if error is not None:
        return error
    images, masks, names = zip(*samples, strict=True)
    batch = Batch(torch.stack(images), torch.stack(masks), names)
    if get_worker_info() is None:
        return batch
    if piped and batch.images.nbytes + batch.targets.nbytes <= _MAX_PIPED:
        return batch.images.numpy(), batch.targets.numpy(), names
    # Shared here, because the thread that sends batches only prints errors: the main process would
    # wait for the time-out.
    batch.images.share_memory_()
    batch.targets.share_memory_()
    return batch


def _notices_deaths() -> bool:
    """Return whether this process notices a dead worker even while it reads from the pipe.

    Otherwise it would wait forever for the rest of a batch that the worker was sending. The main
    thread is interrupted by a signal when a child of its process dies; those of a fork server
    (Python 3.14 on Linux) and those on Windows give none.
    """
    return (
        sys.platform != "win32"
        and multiprocessing.get_start_method() != "forkserver"
        and threading.current_thread() is threading.main_thread()
    )


def _start_worker(main: int, _: int) -> None:
    """Prepare a data worker; `main` is the process id of the training process."""
    # Workers times OpenCV threads would fight for the cores that the network needs.
    cv2.setNumThreads(0)
    # A scheduler signals workers too, but they must wait for the main process.
    for number in signal.Signals:
        if number.name in {"SIGINT", "SIGUSR1", "SIGBREAK"}:  # those that the system has
            signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_with_main, args=(main,), daemon=True).start()
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _exit_with_main(main: int) -> None:
    """End a worker when its main process is gone, and on Linux at the SIGTERM of that process.

    torch's own watchdog looks at the parent, which is a fork server since Python 3.14 and outlives
    a killed main process, and only between two batches.
    """
    if sys.platform == "linux":
        while _is_running(main):
            received = signal.sigtimedwait({signal.SIGTERM}, 3)
            if received is not None and received.si_pid == main:
                break
    else:  # a pipe on macOS, a handle on Windows: the system tells at once
        process = multiprocessing.parent_process()
        assert process is not None
        process.join()
    os._exit(0)


def _is_running(process: int) -> bool:
    """Return whether a process runs; Linux lists it until its parent has noticed its end."""
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}  # after the name


def _end_worker(error: BaseException, _: object) -> NoReturn:
    """End a worker that cannot send a batch, so that the main process notices at once."""
    os.write(2, f"a data worker cannot send a batch: {error}\n".encode())
    os._exit(1)


def _loader_options(workers: int, timeout: float) -> dict[str, Any]:
    pinned = torch.cuda.is_initialized()  # this process uses a GPU
    return {
        "collate_fn": partial(_collate, piped=not pinned and _notices_deaths()),
        "num_workers": workers,
        "timeout": timeout if workers else 0,
        "worker_init_fn": partial(_start_worker, os.getpid()),
        "pin_memory": pinned,
    }


def training_loader(
    samples: TensorSamples, sampler: EpochSampler, *, workers: int, timeout: float
) -> DataLoader[Any]:
    """Load the micro-batches that `sampler` yields; workers stay alive between epochs."""
    options = _loader_options(workers, timeout)
    return DataLoader(samples, batch_sampler=sampler, persistent_workers=workers > 0, **options)


def evaluation_loader(
    dataset: SegmentationDataset, *, rank: int, world_size: int, workers: int, timeout: float
) -> DataLoader[Any]:
    """Load every `world_size`-th sample in its own size: each image in exactly one process."""
    draws = [Draw(0, index) for index in range(rank, len(dataset), world_size)]
    options = _loader_options(min(workers, len(draws)), timeout)
    return DataLoader(TensorSamples(dataset), batch_size=1, sampler=draws, **options)


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield the batches of a loader; raises the InputError of an unusable file."""
    with explained_worker_failures():
        with _interrupts_held_back(loader.num_workers):
            iterator = iter(loader)  # starts the workers
        _widen_pipe(iterator)
        for batch in iterator:
            if isinstance(batch, InputError):
                raise batch
            images, targets, names = batch
            yield Batch(torch.as_tensor(images), torch.as_tensor(targets), tuple(names))


def _widen_pipe(iterator: Any) -> None:  # noqa: ANN401 - torch's own type
    """Let the workers' pipe hold a small batch, so that it comes without stops (on Linux)."""
    queue = getattr(iterator, "_worker_result_queue", None)
    if sys.platform == "linux" and queue is not None:
        with suppress(OSError):  # the system allows less
            fcntl.fcntl(queue._reader.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


@contextmanager
def _interrupts_held_back(workers: int) -> Iterator[None]:
    """Keep Ctrl-C from workers that start inside, since it would end those that still import.

    Where processes do not fork, this takes seconds. A worker inherits what is set here. On Windows
    the main process misses a Ctrl-C in this moment; elsewhere it may receive it later.
    """
    if workers == 0 or multiprocessing.get_start_method() == "fork":
        yield
    elif sys.platform == "win32":
        set_handler = ctypes.windll.kernel32.SetConsoleCtrlHandler
        set_handler(None, True)
        try:
            yield
        finally:
            set_handler(None, False)
    else:
        resource_tracker.ensure_running()  # its start would let signals through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def explained_worker_failures() -> Iterator[None]:
    """Turn failures of data workers into InputError with the remedy.

    torch may report a killed worker at any line of the main process, so use this around a whole
    loop.
    """
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise InputError(_DIED) from error
    except (RuntimeError, OSError) as error:
        # torch has no types for these failures.
        remedy = next((r for text, r in _REMEDIES.items() if text in str(error)), None)
        if remedy is None:
            raise
        raise InputError(remedy.format(limit=_open_file_limit())) from error


def _open_file_limit() -> str:
    """Return how many files a process may have open; it opens none to find out."""
    limit = "the allowed number of"
    if sys.platform != "win32":
        limit = str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return limit


_DIED = "a data worker died, probably for lack of memory; lower data.workers"
_NO_ROOM = (
    "a data worker finds no room in shared memory; enlarge /dev/shm (docker run --shm-size=8g), "
    "lower data.workers, or set data.workers=0"
)
_NO_MAPPING = (
    "a data worker finds no memory that it can share; lower data.workers, or enlarge the page file"
)
_REMEDIES = {
    "Too many open files": "more than {limit} open files; raise `ulimit -n`, or lower data.workers",
    "shared memory": _NO_ROOM,
    "shared file mapping": _NO_MAPPING,  # Windows
    "Bus error": _NO_ROOM,
    "exited unexpectedly": _DIED,
    "killed by signal": _DIED,
    "DataLoader timed out": "no batch arrived in time; check the disk or raise data.timeout",
}
