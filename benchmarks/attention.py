"""Measure the cost of each attention block in the CIFAR ResNet-18, against no blocks."""

from __future__ import annotations

import torch

from benchmarks.rows import Row, cost_row, rate_row
from sceneparse.layers.attention import ATTENTION
from sceneparse.runtime.precision import Compute
from sceneparse.studies.costs import COSTS, count_costs, measure_costs

_SIZE, _BATCH = 32, 128
_UNITS = {1e6: "M", 2**20: "MB", 1: "/s"}


def measure() -> list[Row]:
    """Measure all blocks with batches of 128 in float32; ratios over 1 favour the block."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nets = {
        name: {"model": "resnet18", "num_classes": 10, "attention": name}
        for name in sorted(ATTENTION, key=lambda name: name != "none")
    }
    measured = measure_costs(nets, _SIZE, _BATCH, Compute(device))
    costs = {name: {**count_costs(net, _SIZE), **measured[name]} for name, net in nets.items()}
    plain = costs.pop("none")
    return [_row(cost, block, costs[block][cost], plain[cost]) for cost in plain for block in costs]


def _row(cost: str, block: str, ours: float, reference: float) -> Row:
    kind = COSTS[cost]
    compare = rate_row if kind.more_is_better else cost_row
    values = [ours / kind.unit], [reference / kind.unit]
    return compare(f"{block}_{cost}", *values, _UNITS[kind.unit])
