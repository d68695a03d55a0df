"""Measure what a plan would cost here: seconds of real training steps, a prediction, memory."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import cast

import psutil
import torch

from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.runtime.devices import peak_bytes, reset_peak
from sceneparse.runtime.distributed import Process
from sceneparse.training.run import Training, epoch_steps
from sceneparse.training.segmentation import assemble_run, validation_protocol

# Training steps that are measured, after one that is not counted; the fewest of a slow network.
STEPS, _MIN_STEPS = 10, 3


@dataclass(frozen=True)
class Measured:
    """The cost of a step and of a predicted image in seconds, and the memory in MB.

    `steps`: measured ones. Memory: the peak of a GPU, or that of this process on a CPU.
    """

    step_seconds: float
    steps: int
    image_seconds: float
    memory_mb: float


def measure(
    config: SegConfig,
    splits: tuple[SegmentationDataset, SegmentationDataset],
    process: Process,
    seconds: float,
    *,
    licences: str = "warn",
) -> Measured:
    """Take real training steps, ten if they fit into `seconds`, and predict a validation image.

    `splits`: training and validation. `licences`: what to do about those of weights.
    Raises InputError if the settings do not fit each other or the data, or the memory is too small.
    """
    reset_peak(process.device)
    training = assemble_run(config, process, *splits, licences=licences)
    steps = _time_steps(training, seconds)
    image_seconds = _time_image(config, training, splits[1])
    memory = peak_bytes(process.device) or psutil.Process().memory_info().rss
    return Measured(median(steps), len(steps), image_seconds, memory / 2**20)


def _time_steps(training: Training, seconds: float) -> list[float]:
    taken, times = epoch_steps(training), list[float]()
    with closing(cast("Generator[object]", taken)):
        next(taken)  # starts workers, allocates memory
        before = end = time.perf_counter()
        for _ in islice(taken, STEPS):
            times.append(time.perf_counter() - end)
            end = time.perf_counter()
            if end - before > seconds and len(times) >= _MIN_STEPS:
                break
    return times


@torch.inference_mode()
def _time_image(config: SegConfig, training: Training, val_set: SegmentationDataset) -> float:
    """Return the seconds of reading and predicting a validation image, the second time."""
    protocol, model = validation_protocol(config), training.model.eval()
    taken = 0.0
    for _ in range(2):
        before = time.perf_counter()
        image, _, _ = val_set[len(val_set) // 2]
        pixels = training.compute.place_images(torch.tensor(image).permute(2, 0, 1)[None])
        with training.compute.autocast():
            protocol(cast("SegmentationNetwork", model), pixels, training.normalize).labels().cpu()
        taken = time.perf_counter() - before
    return taken
