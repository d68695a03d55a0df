"""Batches for training and evaluation, read and augmented by worker processes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.sampling import Draw, EpochSampler
from sceneparse.data.transforms import apply_seeded
from sceneparse.errors import InputError

if TYPE_CHECKING:
    import albumentations as A


class Batch(NamedTuple):
    """Images uint8 (B, 3, H, W), targets of train ids (B, H, W), and the names of the samples."""

    images: Tensor
    targets: Tensor
    names: tuple[str, ...]


class Samples(Dataset[Any]):
    """Samples as tensors; for an unusable file the error is returned, not raised.

    If a worker raised it, it would reach the main process wrapped in another traceback.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str] | InputError:
        return self.load(index)

    def load(
        self, index: int, change: Callable[[Any, Any], tuple[Any, Any]] | None = None
    ) -> tuple[Tensor, Tensor, str] | InputError:
        """Read a sample; `change` maps (image, mask) to another (image, mask)."""
        try:
            image, mask, name = self.dataset[index]
            if change is not None:
                image, mask = change(image, mask)
        except InputError as error:
            return error
        except Exception as error:
            raise RuntimeError(f"{self._file(index)}: {type(error).__name__}: {error}") from error
        return image_tensor(image), mask_tensor(mask), name

    def _file(self, index: int) -> str:
        pairs = self.dataset.pairs
        return str(pairs[index].image) if index < len(pairs) else f"sample {index}"


class AugmentedSamples(Samples):
    """Augmented samples, indexed by Draw; a draw gives the same sample in any process."""

    def __init__(self, dataset: SegmentationDataset, transform: A.Compose, seed: int) -> None:
        super().__init__(dataset)
        self.transform, self.seed = transform, seed

    def __getitem__(  # type: ignore[override]
        self, draw: Draw
    ) -> tuple[Tensor, Tensor, str] | InputError:
        seed = (self.seed, draw.epoch, draw.index, *([draw.repeat] if draw.repeat else []))
        return self.load(
            draw.index,
            lambda image, mask: apply_seeded(self.transform, image, mask, seed, draw.wanted_class),
        )


def image_tensor(image: np.ndarray[Any, Any]) -> Tensor:
    """Turn (H, W, 3) into a (3, H, W) uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def mask_tensor(mask: np.ndarray[Any, Any]) -> Tensor:
    """Turn a mask into a tensor of the smallest type that torch computes with."""
    return torch.from_numpy(np.array(mask if mask.dtype == np.uint8 else mask.astype(np.int32)))


def _collate(samples: Sequence[Any]) -> Batch | _Packed | InputError:
    error = next((sample for sample in samples if isinstance(sample, InputError)), None)
    if error is not None:
        return error
    images, masks, names = zip(*samples, strict=True)
    if get_worker_info() is None:
        return Batch(torch.stack(images), torch.stack(masks), tuple(names))
    return _pack(images, masks, names)


class _Packed(NamedTuple):
    """A batch from a worker, in one piece of shared memory.

    Each piece costs a request to the worker, which takes longer than reading the piece.
    """

    content: Tensor
    size: tuple[int, int]
    label_type: torch.dtype
    names: tuple[str, ...]

    @property
    def targets(self) -> Tensor:
        """View the targets (B, H, W). They come first, so that labels of 32 bits are aligned."""
        count, (height, width) = len(self.names), self.size
        end = count * height * width * self.label_type.itemsize
        return self.content[:end].view(self.label_type).view(count, height, width)

    @property
    def images(self) -> Tensor:
        """View the images (B, 3, H, W)."""
        count, (height, width) = len(self.names), self.size
        return self.content[-count * 3 * height * width :].view(count, 3, height, width)


def _pack(images: Sequence[Tensor], masks: Sequence[Tensor], names: Sequence[str]) -> _Packed:
    height, width = masks[0].shape
    length = len(masks) * height * width * (3 + masks[0].itemsize)
    # Shared here, so that an error reaches the main process. The thread that sends batches only
    # prints errors, and the main process would wait for the time-out.
    content = torch.empty(length, dtype=torch.uint8).share_memory_()
    packed = _Packed(content, (height, width), masks[0].dtype, tuple(names))
    torch.stack(list(images), out=packed.images)
    torch.stack(list(masks), out=packed.targets)
    return packed


def _start_worker(main: int, _: int) -> None:
    """Prepare a data worker; `main` is the process id of the training process."""
    # Workers times OpenCV threads would fight for the cores that the network needs.
    cv2.setNumThreads(0)
    # A scheduler sends signals to stop to workers too. They must wait for the main process, which
    # still needs them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_told, args=(main,), daemon=True).start()
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _exit_when_told(main: int) -> None:
    """End a worker at the SIGTERM of its main process, or when that process is gone.

    torch's own watchdog looks at the parent, which is a fork server since Python 3.14 and outlives
    a killed main process.
    """
    while Path(f"/proc/{main}").exists():
        told = signal.sigtimedwait({signal.SIGTERM}, 3)
        if told is not None and told.si_pid == main:
            break
    os._exit(0)


def _end_worker(error: BaseException, _: object) -> NoReturn:
    """End a worker that cannot send a batch, so that the main process notices at once."""
    os.write(2, f"a data worker cannot send a batch: {error}\n".encode())
    os._exit(1)


def _loader_options(workers: int, timeout: float) -> dict[str, Any]:
    return {
        "collate_fn": _collate,
        "num_workers": workers,
        "timeout": timeout if workers else 0,
        "worker_init_fn": partial(_start_worker, os.getpid()),
        "pin_memory": torch.cuda.is_available(),
    }


def training_loader(
    samples: AugmentedSamples, sampler: EpochSampler, *, workers: int, timeout: float
) -> DataLoader[Any]:
    """Load the micro-batches that `sampler` yields; workers stay alive between epochs."""
    options = _loader_options(workers, timeout)
    return DataLoader(samples, batch_sampler=sampler, persistent_workers=workers > 0, **options)


def evaluation_loader(
    dataset: SegmentationDataset, *, rank: int, world_size: int, workers: int, timeout: float
) -> DataLoader[Any]:
    """Load every `world_size`-th sample in its own size: each image in exactly one process."""
    indices = range(rank, len(dataset), world_size)
    options = _loader_options(min(workers, len(indices)), timeout)
    return DataLoader(Samples(dataset), batch_size=1, sampler=indices, **options)


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield the batches of a loader; raises the InputError of an unusable file."""
    with explained_worker_failures():
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield Batch(batch.images, batch.targets, tuple(batch.names))


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
        remedy = _remedy(str(error))
        if remedy is None:
            raise
        raise InputError(remedy) from error


_DIED = "a data worker died, probably for lack of memory; lower data.workers"


def _remedy(failure: str) -> str | None:
    """Return the remedy for a failure of data workers, by its text: torch has no types for them."""
    if "Too many open files" in failure:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"more than {limit} open files; raise `ulimit -n`, or lower data.workers"
    if "shared memory" in failure or "Bus error" in failure:
        return (
            "a data worker finds no room in shared memory; enlarge /dev/shm (docker run "
            "--shm-size=8g), lower data.workers, or set data.workers=0"
        )
    if "exited unexpectedly" in failure or "killed by signal" in failure:
        return _DIED
    if "DataLoader timed out" in failure:
        return "no batch arrived in time; check the disk or raise data.timeout"
    return None
