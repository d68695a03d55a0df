"""Calibrate confidences: fit the temperature that logits are divided by (Guo et al., ICML 2017).

The cross entropy of a sample of pixels is measured at 31 temperatures in one pass over the images;
a cubic spline through these gives the best temperature. A second pass counts calibration error and
risk at this temperature, over all pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from torch import Tensor

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.errors import InputError
from sceneparse.evaluation.dataset import count
from sceneparse.inference.predictor import Predictor
from sceneparse.inference.scores import PixelScores
from sceneparse.metrics.calibration import CalibrationCounts
from sceneparse.metrics.risk import Risk, RiskCounts
from sceneparse.runtime.distributed import Process
from sceneparse.training.loop import Meter

# Logarithms of the temperatures at which losses are measured: -3, -2.8, ..., 3.
LOGARITHMS = np.arange(31) / 5 - 3
# About so many pixels are sampled, evenly over the images; at least a row of each.
MAX_PIXELS = 2_000_000
_SEED = 0
# Runs of neighbouring rows that are sampled from an image, spread over its height.
_RUNS = 8


@dataclass(frozen=True)
class Calibrated:
    """A fitted temperature, and what it changes.

    `nll`: the mean negative log likelihood of the sample, `error`: the expected calibration error,
    each before and after; `risk` after. `at_limit`: no temperature within the limits is best.
    """

    temperature: float
    nll: tuple[float, float]
    error: tuple[float, float]
    risk: Risk
    at_limit: bool


class SampledLosses:
    """Cross entropies of a sample of pixels at several temperatures.

    Also updates meters that need confidence, with all pixels. `sums` (T + 1,): per temperature, and
    the number of pixels.
    """

    def __init__(
        self,
        temperatures: Sequence[float],
        pixels_per_image: int,
        meters: Sequence[Meter],
        device: torch.device,
    ) -> None:
        self.temperatures, self.meters = temperatures, meters
        self.sums = torch.zeros(len(temperatures) + 1, dtype=torch.float64, device=device)
        self._pixels, self._random = pixels_per_image, np.random.default_rng(_SEED)

    def labels(self, scores: PixelScores, targets: Tensor) -> Tensor:
        """Add the losses of a batch; return its most likely classes (B, H, W)."""
        labels, confidence = scores.labels_and_confidence()
        found = [tensor.to(self.sums.device) for tensor in (labels, targets, confidence)]
        for meter in self.meters:
            meter.update(*found)
        height, width = targets.shape[1:]
        for rows in sample_rows(height, width, self._pixels, self._random):
            losses, counted = scores.losses_at(self.temperatures, rows, targets)
            self.sums[:-1] += losses
            self.sums[-1] += counted
        return labels

    def means(self) -> NDArray[np.float64]:
        """Return the mean cross entropies (T,); raises InputError without a counted pixel."""
        *losses, pixels = self.sums.tolist()
        if not pixels:
            raise InputError("no sampled pixel has a class; choose a split with more labels")
        return np.array([loss / pixels for loss in losses])


def sample_rows(height: int, width: int, pixels: int, random: np.random.Generator) -> list[slice]:
    """Choose rows of an image that hold about `pixels` pixels, in runs spread over its height."""
    rows = min(max(pixels // width, 1), height)
    runs = min(_RUNS, rows)
    edges = [height * part // runs for part in range(runs + 1)]
    chosen = []
    for top, bottom in pairwise(edges):
        length = bottom - top if rows == height else min(rows // runs, bottom - top)
        first = top + int(random.integers(bottom - top - length + 1))
        chosen.append(slice(first, first + length))
    return chosen


def best_temperature(losses: NDArray[np.float64]) -> tuple[float, bool]:
    """Return the temperature of the lowest loss, and whether it is at a limit."""
    lowest, last = int(losses.argmin()), len(losses) - 1
    low, high = (float(LOGARITHMS[k]) for k in (max(lowest - 1, 0), min(lowest + 1, last)))
    curve = CubicSpline(LOGARITHMS, losses)
    found = minimize_scalar(lambda x: float(curve(x)), bounds=(low, high), method="bounded")
    return round(float(np.exp(found.x)), 4), lowest in {0, last}


def calibrate(predictor: Predictor, dataset: SegmentationDataset, workers: int = 2) -> Calibrated:
    """Fit the temperature of a model under the protocol of a predictor, which has it afterwards.

    Raises InputError if no pixel can be counted.
    """
    device, ignored = predictor.compute.counts_on, dataset.table.ignore_index
    share = MAX_PIXELS // len(dataset)

    def measure(
        phase: str, temperatures: Sequence[float], meters: Sequence[Meter]
    ) -> NDArray[np.float64]:
        losses = SampledLosses(temperatures, share, meters, device)
        process = Process(0, 1, device)
        count(predictor, dataset, process, [], workers, lambda *_: None, loss=losses, phase=phase)
        return losses.means()

    plain = CalibrationCounts(ignored, device)
    predictor.protocol = replace(predictor.protocol, temperature=1.0)
    before = measure("calibrate", np.exp(LOGARITHMS).tolist(), [plain])
    temperature, at_limit = best_temperature(before)
    predictor.protocol = replace(predictor.protocol, temperature=temperature)
    calibration, risk = CalibrationCounts(ignored, device), RiskCounts(ignored, device)
    after = measure("measure risk", [temperature], [calibration, risk])
    return Calibrated(
        temperature,
        nll=(float(before[len(before) // 2]), float(after[0])),
        error=(plain.curve().error, calibration.curve().error),
        risk=risk.curve(),
        at_limit=at_limit,
    )
