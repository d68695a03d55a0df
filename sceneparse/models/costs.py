"""Costs of a network that do not depend on the machine: parameters and multiply-adds."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, shape: tuple[int, ...], **arguments: object) -> int:
    """Return the multiply-adds of convolutions and matrix products on images (B, 3, H, W).

    Nothing is computed. `arguments` are passed to the model.
    """
    outline = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        outline(torch.empty(shape, device="meta"), **arguments)
    return int(counter.get_total_flops()) // 2
