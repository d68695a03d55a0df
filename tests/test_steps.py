"""What a training step does beside the network: lists of tensors, and memory used again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from sceneparse.training.tensors import tensors_of


class Tangled(nn.Module):
    """A module and a parameter that are used twice, missing parts, and buffers of both types."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.missing = None
        self.again = self.first[1]
        self.last = nn.Linear(4, 4)
        self.scale = self.last.bias
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("nothing", None)


def check(model: nn.Module) -> None:
    found = tensors_of(model)
    buffers = list(model.buffers())
    expected = (
        list(model.parameters()),
        [buffer for buffer in buffers if buffer.dtype == torch.float32],
        [buffer for buffer in buffers if buffer.dtype == torch.int64],
    )
    assert [list(map(id, kind)) for kind in found] == [list(map(id, kind)) for kind in expected]


def test_tensors_are_those_of_pytorch_also_after_a_change() -> None:
    model = Tangled()
    check(model)
    model.to("meta")  # replaces the buffers
    check(model)
    model.more = nn.BatchNorm1d(2)
    model.first[0].bias = nn.Parameter(torch.zeros(4))
    del model.last
    check(model)


_FAULTS = """
import resource, sys
import numpy as np
from sceneparse.runtime.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [np.ones(2**24, np.uint8) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
keep_freed_memory()
faults()
print(usual, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting belongs to glibc")
@pytest.mark.parametrize("own", [{}, {"MALLOC_MMAP_THRESHOLD_": "100000"}])
def test_freed_memory_is_used_again_unless_the_user_chose(own: dict[str, str]) -> None:
    command = [sys.executable, "-c", _FAULTS]
    given = {**os.environ, **own}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=given)
    usual, kept = map(int, done.stdout.split())
    assert (kept < usual / 10) == (not own)
