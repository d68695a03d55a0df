"""From gradients to new weights: optimisers, learning rate schedules, and a step of training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sceneparse.models.timm_backbone import PYRAMID
from sceneparse.training.ema import MovingAverage
from sceneparse.training.tensors import Tensors, tensors_of


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
    """Create an optimiser of OPTIMIZERS for the parameters that are not frozen.

    `lr`: learning rate of `model.backbone`; its pyramid, which has no pretrained weights, and all
    other parts learn `head_lr_factor` times faster. Parameters that their module lists in
    `without_decay` have no weight decay. `momentum`: the first beta of adam and adamw.
    """
    undecayed = {
        getattr(module, attribute)
        for module in model.modules()
        for attribute in getattr(module, "without_decay", ())
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_backbone = path.startswith("backbone.") and not path.startswith(PYRAMID)
            kind = in_backbone, parameter in undecayed
            groups.setdefault(kind, []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": lr if in_backbone else lr * head_lr_factor,
            "weight_decay": 0.0 if without_decay else weight_decay,
        }
        for (in_backbone, without_decay), parameters in sorted(groups.items(), reverse=True)
    ]
    # One kernel for all weights on a GPU. On a CPU it is no faster for SGD, and mistakes gradients
    # of another memory layout for those of other weights (torch 2.14).
    fused = True if all(parameter.is_cuda for parameter in model.parameters()) else None
    shared = {"lr": lr, "weight_decay": weight_decay, "fused": fused}
    return OPTIMIZERS[name](settings, momentum, nesterov, shared)


# From parameter groups, momentum, nesterov and shared settings to an optimiser.
OPTIMIZERS: dict[str, Callable[[Any, float, bool, dict[str, Any]], Optimizer]] = {
    "sgd": lambda groups, momentum, nesterov, shared: SGD(
        groups, momentum=momentum, nesterov=nesterov, **shared
    ),
    "adam": lambda groups, momentum, _, shared: Adam(groups, betas=(momentum, 0.999), **shared),
    "adamw": lambda groups, momentum, _, shared: AdamW(groups, betas=(momentum, 0.999), **shared),
}


@dataclass(frozen=True)
class Schedule:
    """The settings of a learning rate schedule: a name of SCHEDULES, the steps of the whole run.

    `milestones`: steps after which "step" multiplies the rate by `gamma`. `power`: of "poly".
    `bends`: changes of the run's length, see `schedule_position`.
    """

    name: str
    steps: int
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    power: float = 0.9
    bends: list[tuple[int, int]] = field(default_factory=list)

    def attach(self, optimizer: Optimizer) -> LambdaLR:
        """Let the optimiser's learning rates follow this schedule."""

        def factor(step: int) -> float:
            return SCHEDULES[self.name](schedule_position(step, self.steps, self.bends), self)

        return LambdaLR(optimizer, factor)


def schedule_position(step: int, steps: int, bends: Sequence[tuple[int, int]]) -> float:
    """Return where a schedule of `steps` steps is at a step, if the run's length has changed.

    `bends`: steps, each with the step that the run ends at since then. From there on the position
    moves evenly from where it is to the end of the schedule, so that rates stay continuous.
    """
    start, reached, speed = 0, 0.0, 1.0
    for bend, end in bends:
        if step <= bend:
            break
        reached += (bend - start) * speed
        start, speed = bend, (steps - reached) / (end - bend)
    return reached + (step - start) * speed


# From a position and the settings to the factor of the learning rate. cosine: Loshchilov and
# Hutter, ICLR 2017.
SCHEDULES: dict[str, Callable[[float, Schedule], float]] = {
    "poly": lambda step, run: max(1 - step / run.steps, 0.0) ** run.power,
    "step": lambda step, run: float(run.gamma ** sum(step >= end for end in run.milestones)),
    "cosine": lambda step, run: (1 + math.cos(math.pi * min(step / run.steps, 1))) / 2,
    "constant": lambda *_: 1.0,
}


class Stepped(NamedTuple):
    """The loss of a step, whether it changed the weights, and its learning rates, head's last.

    A step is skipped if the loss or a gradient is not finite. `overflow`: the gradients overflowed
    in float16 only, which the scaler corrects in later steps.
    """

    loss: float
    moved: bool
    rates: Sequence[float]
    overflow: bool = False


@dataclass
class Stepper:
    """Turns gradients into new weights: optimiser, schedule, scaler, clipping, averaging.

    `bends`: those of the schedule.
    """

    optimizer: Optimizer
    schedule: LambdaLR
    scaler: torch.amp.GradScaler
    clip_norm: float | None = None
    averaged: MovingAverage | None = None
    bends: list[tuple[int, int]] = field(default_factory=list)
    _tensors: Tensors = field(default_factory=lambda: Tensors([], [], []))
    _kept: list[list[Tensor]] = field(default_factory=list)

    def begin(self, model: nn.Module) -> None:
        """Begin a step of a network: keep its batch norm statistics, in case it is skipped."""
        self._tensors = tensors_of(model)
        if not self._kept:
            self._kept = [[one.clone() for one in kind] for kind in self._tensors.buffers]
        _copy(self._tensors.buffers, self._kept)

    def step(self, loss: Tensor) -> Stepped:
        """Update the weights once, or skip the step if a gradient is not finite.

        All processes decide the same, since their gradients are sums over all. `loss`: a scalar.
        """
        self.scaler.unscale_(self.optimizer)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        parameters = self._tensors.parameters
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # The only read from the device in a step. Reading one step later would be too late: the
        # next step would already be computed, perhaps with a wrong learning rate, and a checkpoint
        # in between could contain a step that must be skipped. The device idles only until the
        # first kernels of the optimiser.
        read_loss, read_norm = torch.stack([loss, norm.to(loss)]).tolist()
        if not math.isfinite(read_norm):
            return self._skip_step(read_loss, rates)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.follow(self._tensors)
        return Stepped(read_loss, moved=True, rates=rates)

    def _skip_step(self, loss: float, rates: Sequence[float]) -> Stepped:
        """Keep weights, momenta, schedule, averages and batch norm statistics."""
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        _copy(self._kept, self._tensors.buffers)
        # With a scale below 1 the cause is not an overflow of float16.
        overflow = self.scaler.is_enabled() and math.isfinite(loss) and self.scaler.get_scale() >= 1
        return Stepped(loss, moved=False, rates=rates, overflow=overflow)

    def end_after(self, steps: int) -> None:
        """Let the learning rates fall to their end over so many more steps; 0: no more come."""
        done = self.schedule.last_epoch
        if steps:
            self.bends.append((done, done + steps))

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs, as tensors and plain values."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch, "bends": list(self.bends)},
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
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape not in {parameter.shape, torch.Size()}:
                    raise ValueError(f"the optimiser's {name} has shape {list(value.shape)}")
        self.schedule.last_epoch = int(state["schedule"]["last_epoch"])
        self.bends[:] = ((int(a), int(b)) for a, b in state["schedule"].get("bends", ()))
        if not all(0 <= bend < end for bend, end in self.bends):
            raise ValueError(f"the schedule bends at {self.bends}")
        factors = zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        for group, (rate, factor) in zip(self.optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor(self.schedule.last_epoch)
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


@torch.no_grad()
def _copy(sources: Sequence[list[Tensor]], targets: Sequence[list[Tensor]]) -> None:
    """Copy tensors into others of the same shapes, all of one type at once."""
    for own, new in zip(targets, sources, strict=True):
        if own:
            torch._foreach_copy_(own, new)
