"""The loops: one epoch of training, one evaluation. All they use arrives as arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from sceneparse.data.loader import Batch
from sceneparse.distributed import sum_over_processes
from sceneparse.inference.protocols import Infer
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.precision import Compute

# Runs a network on normalised images, for its loss.
Forward = Callable[[nn.Module, Tensor], Any]


@dataclass
class Stepper:
    """What turns gradients into new weights: optimiser, schedule, scaler, clipping, averaging."""

    optimizer: Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    clip_norm: float | None = None
    averaged: AveragedModel | None = None

    def step(self, model: nn.Module) -> None:
        """Update the weights once; on an overflow in float16 neither they nor the schedule move."""
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.get_scale() < scale:
            return
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(getattr(model, "module", model))

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
        """Go on from `state_dict()`'s result."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


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
    after_step: Callable[[int, Tensor], bool],
) -> None:
    """Train on `batches`, `accumulate` of them to a step.

    Dropout draws from a generator seeded by `seed`, step and piece, so that a resumed run repeats
    it. `after_step(step, loss)` gets the number of steps done in this epoch; False stops.
    """
    model.train()
    loss_sum = torch.zeros((), device=compute.device)
    for number, batch in enumerate(batches):
        step, piece = divmod(number, accumulate)
        torch.manual_seed(_hash(*seed, first_step + step, piece))
        images = normalize(compute.place_images(batch.images))
        targets = batch.targets.to(compute.device, non_blocking=True)
        step_ends = piece == accumulate - 1
        with _share_gradients(model, step_ends):
            with compute.autocast():
                outputs = forward(model, images)
            loss = loss_function(outputs, targets) / accumulate
            stepper.scaler.scale(loss).backward()
        loss_sum += loss.detach()
        if step_ends:
            stepper.step(model)
            if not after_step(first_step + step + 1, loss_sum):
                return
            loss_sum = torch.zeros((), device=compute.device)


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
    """Return the mean cross entropy and the share of right answers over this process's batches."""
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
    return loss_sum / images, right_sum / images
