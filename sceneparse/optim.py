"""The optimisers, with two learning rates, and the polynomial schedule, per step."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def create_optimizer(
    model: nn.Module,
    *,
    name: str = "sgd",
    lr: float,
    head_lr_factor: float,
    momentum: float,
    weight_decay: float,
) -> Optimizer:
    """Build "sgd" or "adamw" over what is not frozen.

    All but `model.backbone` learns `head_lr_factor` times faster. Parameters that their module
    names in `without_decay` have no weight decay. `momentum` is the first beta of AdamW.
    """
    free = _without_decay(model)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = path.startswith("backbone."), parameter in free
            groups.setdefault(kind, []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": lr if in_backbone else lr * head_lr_factor,
            "weight_decay": 0.0 if undecayed else weight_decay,
        }
        for (in_backbone, undecayed), parameters in sorted(groups.items(), reverse=True)
    ]
    if name == "adamw":
        return AdamW(settings, lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay)
    return SGD(settings, lr=lr, momentum=momentum, weight_decay=weight_decay)


def _without_decay(model: nn.Module) -> set[nn.Parameter]:
    """Parameters that their modules name in `without_decay`."""
    return {
        getattr(module, name)
        for module in model.modules()
        for name in getattr(module, "without_decay", ())
    }


def poly_schedule(optimizer: Optimizer, *, steps: int, power: float) -> LambdaLR:
    """Schedule lr * (1 - step / steps) ** power; call `step()` after every optimiser step."""
    return LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0) ** power)
