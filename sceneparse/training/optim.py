"""Optimisers, with two learning rates, and learning rate schedules, per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


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


_ADAMS: dict[str, type[Adam] | type[AdamW]] = {"adam": Adam, "adamw": AdamW}


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
