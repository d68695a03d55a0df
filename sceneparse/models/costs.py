"""What a network costs on any machine: parameters and multiply-adds, counted without computing."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Count the numbers that training changes."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, shape: tuple[int, ...], **arguments: object) -> int:
    """Count those of convolutions and matrices on images (B, 3, H, W)."""
    shapes = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        shapes(torch.empty(shape, device="meta"), **arguments)
    return int(counter.get_total_flops()) // 2
