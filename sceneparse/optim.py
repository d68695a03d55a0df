"""SGD with two learning rates and the polynomial schedule, per optimiser step."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR


def create_optimizer(
    model: nn.Module,
    *,
    lr: float,
    head_lr_factor: float,
    momentum: float,
    weight_decay: float,
) -> SGD:
    """Build SGD; all but `model.backbone` learns `head_lr_factor` times faster; frozen rests."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    backbone = [parameter for name, parameter in named if name.startswith("backbone.")]
    heads = [parameter for name, parameter in named if not name.startswith("backbone.")]
    groups = [{"params": backbone, "lr": lr}, {"params": heads, "lr": lr * head_lr_factor}]
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)


def poly_schedule(optimizer: SGD, *, steps: int, power: float) -> LambdaLR:
    """Schedule lr * (1 - step / steps) ** power; call `step()` after every optimiser step."""
    return LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0) ** power)
