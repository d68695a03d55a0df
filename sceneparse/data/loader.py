"""Batches for training and evaluation, read and augmented by worker processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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
    """Samples as tensors; an unusable file is returned as its error, not raised.

    Raised in a worker, an error would reach the main process wrapped in another traceback.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str] | InputError:
        return self.load(index)

    def load(
        self, index: int, change: Callable[[Any, Any], tuple[Any, Any]] | None = None
    ) -> tuple[Tensor, Tensor, str] | InputError:
        """Read a sample and `change` image and mask, if asked to."""
        try:
            image, mask, name = self.dataset[index]
        except InputError as error:
            return error
        if change is not None:
            image, mask = change(image, mask)
        return image_tensor(image), mask_tensor(mask), name


class AugmentedSamples(Samples):
    """Augmented samples by draw; the same draw gives the same sample in any process."""

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


def _collate(samples: Sequence[Any]) -> Batch | InputError:
    error = next((sample for sample in samples if isinstance(sample, InputError)), None)
    if error is not None:
        return error
    images, masks, names = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.stack(masks), tuple(names))


def _start_worker(_: int) -> None:
    # Workers times OpenCV threads would fight for the cores that the network needs.
    cv2.setNumThreads(0)
    # Signals to stop reach workers too; they leave it to the main process, which sends another.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def _loader_options(workers: int, timeout: float) -> dict[str, Any]:
    return {
        "collate_fn": _collate,
        "num_workers": workers,
        "timeout": timeout if workers else 0,
        "worker_init_fn": _start_worker,
        "pin_memory": torch.cuda.is_available(),
    }


def training_loader(
    samples: AugmentedSamples, sampler: EpochSampler, *, workers: int, timeout: float
) -> DataLoader[Any]:
    """Load the micro-batches that `sampler` names; the workers live on between epochs."""
    options = _loader_options(workers, timeout)
    return DataLoader(samples, batch_sampler=sampler, persistent_workers=workers > 0, **options)


def evaluation_loader(
    dataset: SegmentationDataset, *, rank: int, world_size: int, workers: int, timeout: float
) -> DataLoader[Any]:
    """Load every `world_size`-th sample at its own size: each image on exactly one process."""
    indices = range(rank, len(dataset), world_size)
    options = _loader_options(min(workers, len(indices)), timeout)
    return DataLoader(Samples(dataset), batch_size=1, sampler=indices, **options)


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Iterate a loader, raising the InputError of an unusable file here."""
    with explained_worker_failures():
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


@contextmanager
def explained_worker_failures() -> Iterator[None]:
    """Turn the failures of data workers into InputError with the remedy.

    torch reports a killed worker wherever the main process happens to be, so that this belongs
    around whole loops.
    """
    died = "a data worker died, likely for lack of memory; lower data.workers"
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise InputError(died) from error
    except RuntimeError as error:
        # torch has no types of its own for these.
        if "exited unexpectedly" in str(error) or "killed by signal" in str(error):
            raise InputError(died) from error
        if "DataLoader timed out" in str(error):
            raise InputError(
                "a data worker is silent; is the disk stuck? else raise data.timeout"
            ) from error
        raise
