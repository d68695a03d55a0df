"""Measure two processes against one, and gradient checkpointing against stored activations."""

from __future__ import annotations

import gc
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from timeit import timeit

import torch
from torch import distributed as dist
from torch import nn

from benchmarks.limits import finish
from benchmarks.rows import Row, Work, cost_row, in_turns, rate_row, time_row
from sceneparse.layers.checkpointing import checkpoint_blocks
from sceneparse.models import create_segmentation_model
from sceneparse.runtime.distributed import Process, parallel_network
from sceneparse.runtime.memory import in_a_process, peak_memory

_CLASSES, _CROP, _IMAGES = 19, 257, 2
_STEPS, _REPEATS = 3, 3


def measure() -> list[Row]:
    """Train SPNet-50 in float32 on crops of 257x257: memory, steps, two one-thread processes."""
    plain, thrifty = (_bytes_per_image(thrifty) for thrifty in (False, True))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = {str(thrifty): _step(_network(thrifty), _IMAGES, device) for thrifty in (False, True)}
    seconds = in_turns(steps, repeats=_REPEATS)
    rows = [
        cost_row("checkpointing_mb_per_image", [thrifty / 2**20], [plain / 2**20], "MB"),
        time_row("checkpointing_step", seconds["True"], seconds["False"]),
    ]
    if device.type == "cpu":
        rates = [(_images_per_second(2), _images_per_second(1)) for _ in range(_REPEATS)]
        two, one = zip(*rates, strict=True)
        rows.append(rate_row("two_processes", two, one, "images/s"))
    return rows


def _network(thrifty: bool) -> nn.Module:
    torch.manual_seed(0)
    model = create_segmentation_model("strip_pooling", "resnet50", _CLASSES)
    if thrifty:
        checkpoint_blocks(model.backbone)
    return model.to(memory_format=torch.channels_last)


def _step(model: nn.Module, count: int, device: torch.device) -> Work:
    """Return work: a forward pass, backward pass and optimiser step of a network."""
    model.to(device).train()
    images = torch.randn(count, 3, _CROP, _CROP, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    # The weights stay: trained on noise, they would become denormal and slow.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def work() -> None:
        outputs = model(images, upsample=False)
        torch.stack([logits.square().mean() for logits in outputs.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        finish(device)

    return work


def _bytes_per_image(thrifty: bool) -> float:
    """Measure how the peak memory of a fresh process grows with the batch."""
    few, many = (in_a_process(_peak, thrifty, count) for count in (_IMAGES, 2 * _IMAGES))
    return (many - few) / _IMAGES


def _peak(thrifty: bool, count: int) -> int:
    """Return the peak bytes of training steps: of the process, or of its GPU."""
    on_gpu = torch.cuda.is_available()
    work = _step(_network(thrifty), count, torch.device("cuda" if on_gpu else "cpu"))
    for _ in range(2):
        work()
        gc.collect()
    return torch.cuda.max_memory_allocated() if on_gpu else peak_memory()


def _images_per_second(processes: int) -> float:
    """Measure training in one-thread processes, with the same images per process."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
    ):
        ranks = [
            pool.submit(_seconds_per_step, rank, processes, f"{folder}/store")
            for rank in range(processes)
        ]
        slowest = max(rank.result() for rank in ranks)
    return processes * _IMAGES / slowest


def _seconds_per_step(rank: int, processes: int, store: str) -> float:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    try:
        process = Process(rank, processes, torch.device("cpu"))
        work = _step(parallel_network(_network(False), process), _IMAGES, process.device)
        work()
        return median(timeit(work, number=1) for _ in range(_STEPS))
    finally:
        dist.destroy_process_group()
