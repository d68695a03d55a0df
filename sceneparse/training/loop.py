"""One epoch of training, one evaluation; everything they use is an argument."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from sceneparse.data.loader import Batch
from sceneparse.errors import InputError, NumericalError
from sceneparse.inference.protocols import Infer
from sceneparse.inference.scores import PixelScores
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.runtime.devices import as_float64, counting_device
from sceneparse.runtime.distributed import sum_over_processes
from sceneparse.runtime.precision import Compute
from sceneparse.training.optim import Stepped, Stepper

# Runs a network on normalised images (B, 3, H, W); returns what the loss needs.
Forward = Callable[[nn.Module, Tensor], Any]


def train_one_epoch(  # noqa: PLR0913 - all it uses
    model: nn.Module,
    batches: Iterable[Batch],
    stepper: Stepper,
    *,
    forward: Forward,
    loss_function: Callable[[Any, Tensor], Tensor],
    normalize: Callable[[Tensor], Tensor],
    compute: Compute,
    accumulate: int,
    seed: tuple[int, ...],
    first_step: int,
) -> Iterator[tuple[int, Stepped, list[str]]]:
    """Train on `batches`, `accumulate` of them per step; stop reading to stop training.

    Yields after every step: the number of steps done in this epoch (`first_step` were done before),
    its result and the names of its samples. `seed`, step and batch seed dropout, so that a resumed
    run repeats it. Raises InputError if the memory does not suffice.
    """
    model.train()
    # The seeds of GPUs take as long as a layer, even if there is none.
    on_cpu = compute.device.type == "cpu"
    seed_all = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
    loss_sum, names = torch.zeros((), device=compute.device), list[str]()
    for number, batch in enumerate(batches):
        step, piece = divmod(number, accumulate)
        if piece == 0:
            stepper.begin(model)
            loss_sum, names = torch.zeros((), device=compute.device), []
        seed_all(_seed_from(*seed, first_step + step, piece))
        step_ends = piece == accumulate - 1
        with (
            explained_lack_of_memory(batch, compute, _SMALLER_STEPS),
            _sync_gradients(model, step_ends),
        ):
            images = compute.arrange(normalize(compute.place(batch.images)))
            targets = compute.place(batch.targets)
            with compute.autocast():
                outputs = forward(model, images)
            loss = loss_function(outputs, targets) / accumulate
            # NaN makes all gradients NaN, so that every process notices in the sum of the
            # gradients. An infinite loss could have finite gradients.
            checked = loss * torch.where(loss.isfinite(), 1.0, torch.nan)
            stepper.scaler.scale(checked).backward()
            loss_sum += loss.detach()
            names += batch.names
            stepped = stepper.step(loss_sum) if step_ends else None
        if stepped:
            yield first_step + step + 1, stepped, names


_SMALLER_STEPS = "lower train.batch_size, raise train.accumulate, or lower augment.crop"
_OUT_OF_MEMORY = ("can't allocate memory", "MPS backend out of memory")
_SMALLER_WINDOWS = "evaluate in windows (protocol slide) of a smaller crop"


@contextmanager
def explained_lack_of_memory(batch: Batch, compute: Compute, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error, on GPU or CPU, into InputError with the batch's size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        # The allocators of the CPU and of mps have no exception type of their own.
        if not is_known and not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        count, _, height, width = batch.images.shape
        size = f"{count} images of {height}x{width}"
        raise InputError(f"{compute.device} has too little memory for {size}; {remedy}") from error


def _sync_gradients(model: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Return a context in which processes sum their gradients only at the end of a step."""
    if isinstance(model, DistributedDataParallel) and not now:
        return model.no_sync()
    return nullcontext()


def _seed_from(*numbers: int) -> int:
    """Return a seed made of several numbers; neighbouring numbers give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1


class Meter(Protocol):
    """Counts during an evaluation, on a counting device; they are summed over all processes."""

    needs_confidence: bool

    def update(self, labels: Tensor, targets: Tensor, confidence: Tensor | None) -> None:
        """Count predicted and true labels (B, H, W); `confidence`: of the predicted ones."""

    def state(self) -> list[Tensor]:
        """Return the tensors to sum over processes, in place."""


class Loss(Protocol):
    """A loss during an evaluation; its `sums` are summed over all processes."""

    sums: Tensor

    def labels(self, scores: PixelScores, targets: Tensor) -> Tensor:
        """Add the losses of a batch; return its most likely classes (B, H, W)."""


class MeanLoss:
    """The mean cross entropy of an evaluation, weighted by true class with `weights` (K,)."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        # of weighted losses, and of weights
        place = counting_device(weights.device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=place)

    def labels(self, scores: PixelScores, targets: Tensor) -> Tensor:
        """Add the losses of a batch; return its most likely classes (B, H, W)."""
        labels, sums = scores.labels_and_loss(targets, self.weights)
        self.sums += sums
        return labels

    @property
    def value(self) -> float:
        """The mean, once `evaluate` has summed over all processes; NaN without a pixel."""
        total, weight = self.sums.tolist()
        return total / weight if weight else math.nan


@torch.inference_mode()
def evaluate(  # noqa: PLR0913 - all it uses
    model: SegmentationNetwork,
    batches: Iterable[Batch],
    meters: Sequence[Meter],
    *,
    infer: Infer,
    normalize: Callable[[Tensor], Tensor],
    compute: Compute,
    after_batch: Callable[[Batch, Tensor], None],
    loss: Loss | None = None,
) -> None:
    """Update the meters with this process's batches, then sum the counts of all processes.

    `infer` is an inference protocol. `after_batch` gets every batch and its predicted labels
    (B, H, W). `loss`: also measured, unless a meter needs confidence. Raises InputError if the
    memory does not suffice.
    """
    model.eval()
    for batch in batches:
        with explained_lack_of_memory(batch, compute, _SMALLER_WINDOWS):
            pixels = compute.place_images(batch.images)
            targets = compute.place(batch.targets)
            with compute.autocast():
                scores = infer(model, pixels, normalize)
            confidence: Tensor | None = None
            if any(meter.needs_confidence for meter in meters):
                labels, confidence = scores.labels_and_confidence()
            else:
                labels = scores.labels() if loss is None else loss.labels(scores, targets)
        place = compute.counts_on
        labels, targets = labels.to(place), targets.to(place)
        confidence = None if confidence is None else confidence.to(place)
        for meter in meters:
            meter.update(labels, targets, confidence)
        after_batch(batch, labels)
    for meter in meters:
        for tensor in meter.state():
            sum_over_processes(tensor)
    if loss is not None:
        sum_over_processes(loss.sums)


@torch.inference_mode()
def evaluate_classifier(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    normalize: Callable[[Tensor], Tensor],
    compute: Compute,
) -> tuple[float, float]:
    """Return the mean cross entropy and the accuracy over this process's batches.

    Raises NumericalError if the network's outputs are not finite.
    """
    model.eval()
    place, images = compute.counts_on, 0
    counts = torch.zeros(2, dtype=torch.float64, device=place)
    for batch in batches:
        with compute.autocast():
            logits = model(normalize(compute.place_images(batch.images)))
        targets = compute.place(batch.targets)
        loss = functional.cross_entropy(logits.float(), targets, reduction="sum")
        correct = (logits.argmax(dim=1) == targets).sum()
        counts += torch.stack([as_float64(loss), as_float64(correct)])
        images += len(targets)
    loss_sum, correct_sum = counts.tolist()
    if not math.isfinite(loss_sum):
        raise NumericalError("the network's outputs are not finite; lower optim.lr")
    return loss_sum / images, correct_sum / images
