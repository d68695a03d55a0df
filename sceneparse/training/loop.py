"""The loops: one epoch of training, one evaluation. All they use arrives as arguments."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sceneparse.data.loader import Batch
from sceneparse.errors import InputError, NumericalError
from sceneparse.inference.protocols import Infer
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.runtime.distributed import sum_over_processes
from sceneparse.runtime.precision import Compute
from sceneparse.training.ema import MovingAverage

# Runs a network on normalised images, for its loss.
Forward = Callable[[nn.Module, Tensor], Any]


class Stepped(NamedTuple):
    """What became of a step: its loss, and whether anything moved.

    Nothing does where the loss or a gradient is not finite; `overflow` says that float16 alone is
    to blame, which its scaler sees to.
    """

    loss: float
    moved: bool
    overflow: bool = False


@dataclass
class Stepper:
    """What turns gradients into new weights: optimiser, schedule, scaler, clipping, averaging."""

    optimizer: Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    clip_norm: float | None = None
    averaged: MovingAverage | None = None
    _buffers: list[Tensor] = field(default_factory=list)

    def begin(self, model: nn.Module) -> None:
        """Keep the statistics of batch norms, which change before a step is known to be good."""
        if not self._buffers:
            self._buffers = [buffer.clone() for buffer in model.buffers()]
        _copy(model.buffers(), self._buffers)

    def step(self, model: nn.Module, loss: Tensor) -> Stepped:
        """Update the weights once, or leave all as it was where a gradient is not finite.

        Weights, momenta, schedule, averages and statistics of batch norms are as before then.
        Several processes agree, since their gradients are sums over all.
        """
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # The only read of the device in a step, and not a step later: by then the next step would
        # be computed, at a rate that the schedule may not have come to, and a checkpoint between
        # the two could hold a step that must be left out. The device waits for no more than the
        # first kernels of the optimiser.
        read_loss, read_norm = torch.stack([loss, norm.to(loss)]).tolist()
        if not math.isfinite(read_norm):
            return self._skip(model, read_loss)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), self.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(getattr(model, "module", model))
        return Stepped(read_loss, moved=True)

    def _skip(self, model: nn.Module, loss: float) -> Stepped:
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        _copy(self._buffers, model.buffers())
        # A scale that has fallen below 1 does not help.
        overflow = self.scaler.is_enabled() and math.isfinite(loss) and self.scaler.get_scale() >= 1
        return Stepped(loss, moved=False, overflow=overflow)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "scaler": self.scaler.state_dict(),
        }
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`'s result, with the settings that this one was made with.

        Raises an error for the state of another run.
        """
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": settings})
        for parameter, values in self.optimizer.state.items():
            _refuse_misshaped(parameter, values)
        self.schedule.last_epoch = int(state["schedule"]["last_epoch"])
        factors = zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        for group, (rate, factor) in zip(self.optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor(self.schedule.last_epoch)
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


def _refuse_misshaped(parameter: Tensor, values: Mapping[str, Any]) -> None:
    """Raise ValueError unless what is kept for a parameter is of its shape, or one number."""
    for name, value in values.items():
        if isinstance(value, Tensor) and value.shape not in {parameter.shape, torch.Size()}:
            raise ValueError(f"the optimiser's {name} is of shape {list(value.shape)}")


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
    after_step: Callable[[int, Stepped, Sequence[str]], bool],
) -> None:
    """Train on `batches`, `accumulate` of them to a step.

    Dropout draws from a generator seeded by `seed`, step and piece, so that a resumed run repeats
    it. `after_step` gets the number of steps done in this epoch, what became of the last one and
    the names of its samples; False stops.
    """
    model.train()
    loss_sum, names = torch.zeros((), device=compute.device), list[str]()
    for number, batch in enumerate(batches):
        step, piece = divmod(number, accumulate)
        if piece == 0:
            stepper.begin(model)
            loss_sum, names = torch.zeros((), device=compute.device), []
        torch.manual_seed(_hash(*seed, first_step + step, piece))
        step_ends = piece == accumulate - 1
        with explained_lack_of_memory(batch, compute, _SMALLER_STEPS):
            images = normalize(compute.place_images(batch.images))
            targets = batch.targets.to(compute.device, non_blocking=True)
            with _share_gradients(model, step_ends):
                with compute.autocast():
                    outputs = forward(model, images)
                loss = loss_function(outputs, targets) / accumulate
                stepper.scaler.scale(_spoilt_unless_finite(loss)).backward()
            loss_sum += loss.detach()
            names += batch.names
            stepped = stepper.step(model, loss_sum) if step_ends else None
        if stepped and not after_step(first_step + step + 1, stepped, names):
            return


def staged(batches: Iterable[Batch], compute: Compute) -> Iterator[Batch]:
    """Copy each batch of the loader to a GPU while the one before is computed, one ahead.

    The copies run in a stream of their own; elsewhere the batches come as they are.
    """
    if compute.device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(compute.device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(side):
            images = compute.place_images(batch.images)
            targets = batch.targets.to(compute.device, non_blocking=True)
            coming = Batch(images, targets, batch.names), side.record_event()
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = coming
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the present stream wait for a copy, whose memory is not used anew before it is done."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    for tensor in (batch.images, batch.targets):
        tensor.record_stream(stream)
    return batch


_SMALLER_STEPS = "lower train.batch_size, raise train.accumulate, or lower augment.crop"
_SMALLER_WINDOWS = "evaluate in windows (protocol slide) of a smaller crop"


@contextmanager
def explained_lack_of_memory(batch: Batch, compute: Compute, remedy: str) -> Iterator[None]:
    """Turn a lack of memory, on a GPU or CPU, into InputError with the batch's size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lacking = isinstance(error, torch.OutOfMemoryError | MemoryError)
        # The CPU's allocator has no type of its own.
        if not lacking and "can't allocate memory" not in str(error):
            raise
        count, _, height, width = batch.images.shape
        size = f"{count} images of {height}x{width}"
        raise InputError(f"{compute.device} has too little memory for {size}; {remedy}") from error


def _spoilt_unless_finite(loss: Tensor) -> Tensor:
    """Return the loss; one that is not finite has gradients that are not finite either.

    So all processes see it in the sum of their gradients, also where infinity has finite ones.
    """
    return loss * torch.where(loss.isfinite(), 1.0, torch.nan)


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """Copy tensors one by one into others, on a GPU all of a type at once."""
    pairs = list(zip(sources, targets, strict=True))
    with torch.no_grad():
        for floating in (True, False):
            group = [pair for pair in pairs if pair[0].is_floating_point() == floating]
            if group:
                torch._foreach_copy_([target for _, target in group], [s for s, _ in group])


def _share_gradients(model: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Several processes add up their gradients only at the end of a step."""
    if isinstance(model, DistributedDataParallel) and not now:
        return model.no_sync()
    return nullcontext()


def _hash(*numbers: int) -> int:
    """One seed from several numbers, far from the seeds of their neighbours."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1


class Meter(Protocol):
    """Counts something over an evaluation; the sums of all processes' counts are the result."""

    needs_confidence: bool

    def update(self, labels: Tensor, targets: Tensor, confidence: Tensor | None) -> None:
        """Count predicted and true labels (B, H, W), and the probability of the predicted ones."""

    def state(self) -> list[Tensor]:
        """Return the tensors that add up over processes."""


@torch.inference_mode()
def evaluate(
    model: SegmentationNetwork,
    batches: Iterable[Batch],
    meters: Sequence[Meter],
    *,
    infer: Infer,
    normalize: Callable[[Tensor], Tensor],
    compute: Compute,
    after_batch: Callable[[Batch, Tensor], None],
) -> None:
    """Let the meters count this process's batches, then add up the counts of all processes.

    `after_batch` sees every batch with its predicted labels (B, H, W).
    """
    model.eval()
    for batch in batches:
        with explained_lack_of_memory(batch, compute, _SMALLER_WINDOWS):
            images = normalize(compute.place_images(batch.images))
            with compute.autocast():
                scores = infer(model, images)
            confidence: Tensor | None = None
            if any(meter.needs_confidence for meter in meters):
                labels, confidence = scores.labels_and_confidence()
            else:
                labels = scores.labels()
        targets = batch.targets.to(compute.device, non_blocking=True)
        for meter in meters:
            meter.update(labels, targets, confidence)
        after_batch(batch, labels)
    for meter in meters:
        for tensor in meter.state():
            sum_over_processes(tensor)


@torch.inference_mode()
def evaluate_classifier(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    normalize: Callable[[Tensor], Tensor],
    compute: Compute,
) -> tuple[float, float]:
    """Return the mean cross entropy and the share of right answers over this process's batches.

    Raises NumericalError where the network's outputs are not finite.
    """
    model.eval()
    counts, images = torch.zeros(2, dtype=torch.float64, device=compute.device), 0
    for batch in batches:
        with compute.autocast():
            logits = model(normalize(compute.place_images(batch.images)))
        targets = batch.targets.to(compute.device, non_blocking=True)
        loss = functional.cross_entropy(logits.float(), targets, reduction="sum")
        right = (logits.argmax(dim=1) == targets).sum()
        counts += torch.stack([loss.double(), right.double()])
        images += len(targets)
    loss_sum, right_sum = counts.tolist()
    if not math.isfinite(loss_sum):
        raise NumericalError("the network's outputs are not finite; lower optim.lr")
    return loss_sum / images, right_sum / images
