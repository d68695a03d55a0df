"""From gradients to new weights: optimisers, learning rate schedules, and a step of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sceneparse.training.ema import MovingAverage

_ADAMS: dict[str, type[Adam] | type[AdamW]] = {"adam": Adam, "adamw": AdamW}


def create_optimizer(
    model: nn.Module,
    *,
    name: str = "sgd",
    lr: float,
    head_lr_factor: float = 1.0,
    momentum: float,
    nesterov: bool = False,
    weight_decay: float,
) -> Optimizer:
    """Create "sgd", "adam" or "adamw" for the parameters that are not frozen.

    `lr`: learning rate of `model.backbone`; all other parts learn `head_lr_factor` times faster.
    Parameters that their module lists in `without_decay` have no weight decay. `momentum`: the
    first beta of adam and adamw.
    """
    undecayed_parameters = _without_decay(model)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = path.startswith("backbone."), parameter in undecayed_parameters
            groups.setdefault(kind, []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": lr if in_backbone else lr * head_lr_factor,
            "weight_decay": 0.0 if undecayed else weight_decay,
        }
        for (in_backbone, undecayed), parameters in sorted(groups.items(), reverse=True)
    ]
    # One kernel for all weights on a GPU. On a CPU it is no faster for SGD, and mistakes gradients
    # of another memory layout for those of other weights (torch 2.14).
    fused = True if all(parameter.is_cuda for parameter in model.parameters()) else None
    shared: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "fused": fused}
    if name in _ADAMS:
        return _ADAMS[name](settings, betas=(momentum, 0.999), **shared)
    return SGD(settings, momentum=momentum, nesterov=nesterov, **shared)


def _without_decay(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that their modules list in `without_decay`."""
    return {
        getattr(module, name)
        for module in model.modules()
        for name in getattr(module, "without_decay", ())
    }


def poly_schedule(optimizer: Optimizer, *, steps: int, power: float) -> LambdaLR:
    """Return the schedule lr * (1 - step / steps) ** power, per optimiser step."""
    return LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0) ** power)


def milestone_schedule(
    optimizer: Optimizer, *, steps_per_epoch: int, milestones: Sequence[int], gamma: float
) -> LambdaLR:
    """Return the schedule lr * gamma ** (number of milestones passed), milestones in epochs."""

    def factor(step: int) -> float:
        passed = sum(step >= milestone * steps_per_epoch for milestone in milestones)
        return float(gamma**passed)

    return LambdaLR(optimizer, factor)


def cosine_schedule(optimizer: Optimizer, *, steps: int) -> LambdaLR:
    """Return lr * (1 + cos(pi * step / steps)) / 2, per step (Loshchilov and Hutter, ICLR 2017)."""
    return LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1))) / 2)


class Stepped(NamedTuple):
    """The loss of a step, and whether it changed the weights.

    A step is skipped if the loss or a gradient is not finite. `overflow`: the gradients overflowed
    in float16 only, which the scaler corrects in later steps.
    """

    loss: float
    moved: bool
    overflow: bool = False


@dataclass
class Stepper:
    """Turns gradients into new weights: optimiser, schedule, scaler, clipping, averaging."""

    optimizer: Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    clip_norm: float | None = None
    averaged: MovingAverage | None = None
    _buffers: list[Tensor] = field(default_factory=list)

    def begin(self, model: nn.Module) -> None:
        """Keep a copy of the batch norm statistics, in case the step is skipped."""
        if not self._buffers:
            self._buffers = [buffer.clone() for buffer in model.buffers()]
        _copy(model.buffers(), self._buffers)

    def step(self, model: nn.Module, loss: Tensor) -> Stepped:
        """Update the weights once, or skip the step if a gradient is not finite.

        A skipped step changes no weights, momenta, schedule, averages or batch norm statistics. All
        processes decide the same, since their gradients are sums over all. `loss`: a scalar.
        """
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # The only read from the device in a step. Reading one step later would be too late: the
        # next step would already be computed, perhaps with a wrong learning rate, and a checkpoint
        # in between could contain a step that must be skipped. The device idles only until the
        # first kernels of the optimiser.
        read_loss, read_norm = torch.stack([loss, norm.to(loss)]).tolist()
        if not math.isfinite(read_norm):
            return self._skip_step(model, read_loss)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), self.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(getattr(model, "module", model))
        return Stepped(read_loss, moved=True)

    def _skip_step(self, model: nn.Module, loss: float) -> Stepped:
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        _copy(self._buffers, model.buffers())
        # With a scale below 1 the cause is not an overflow of float16.
        overflow = self.scaler.is_enabled() and math.isfinite(loss) and self.scaler.get_scale() >= 1
        return Stepped(loss, moved=False, overflow=overflow)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs, as tensors and plain values."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "scaler": self.scaler.state_dict(),
        }
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict()`, but keep the settings of this optimiser and schedule.

        Raises ValueError, KeyError or RuntimeError for the state of another run.
        """
        settings = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": settings})
        for parameter, values in self.optimizer.state.items():
            _check_shapes(parameter, values)
        self.schedule.last_epoch = int(state["schedule"]["last_epoch"])
        factors = zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        for group, (rate, factor) in zip(self.optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor(self.schedule.last_epoch)
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


def _check_shapes(parameter: Tensor, values: Mapping[str, Any]) -> None:
    """Raise ValueError unless each state of a parameter has its shape, or is one number."""
    for name, value in values.items():
        if isinstance(value, Tensor) and value.shape not in {parameter.shape, torch.Size()}:
            raise ValueError(f"the optimiser's {name} has shape {list(value.shape)}")


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """Copy tensors into others of the same shapes, all floating point ones at once."""
    pairs = list(zip(sources, targets, strict=True))
    with torch.no_grad():
        for floating in (True, False):
            group = [pair for pair in pairs if pair[0].is_floating_point() == floating]
            if group:
                torch._foreach_copy_([target for _, target in group], [s for s, _ in group])
