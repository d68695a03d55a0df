"""Risk and coverage: how many predictions are wrong among those with at least some confidence.

Coverage at a threshold: the share of pixels whose confidence is at least it. Risk: the share of
these pixels that is wrong (Geifman and El-Yaniv, NeurIPS 2017).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.metrics.confusion import ratio

BINS = 1000
# The thresholds of tables.
THRESHOLDS = tuple(percent / 100 for percent in (0, *range(50, 100, 5), 99))


@dataclass(frozen=True)
class Risk:
    """Per threshold 0, 1/BINS, 2/BINS, ...: coverage, and share of wrong pixels (NaN if none).

    `area`: under the curve of risk over coverage, the mean risk if each pixel's own confidence in
    turn is the threshold (Geifman et al., ICLR 2019); the confidence is rounded down to a bin.
    """

    threshold: NDArray[np.float64]
    coverage: NDArray[np.float64]
    error: NDArray[np.float64]
    area: float

    def table(self) -> dict[str, Any]:
        """Return the area, and coverage and error at THRESHOLDS, as plain values."""
        rows = [round(threshold * BINS) for threshold in THRESHOLDS]
        return {
            "area": self.area,
            "thresholds": list(THRESHOLDS),
            "coverage": self.coverage[rows].tolist(),
            "error": self.error[rows].tolist(),
        }


class RiskCounts:
    """Pixels and wrong pixels in BINS equal bins of confidence: (2, BINS), int64."""

    needs_confidence = True

    def __init__(self, ignore_index: int, device: torch.device | str = "cpu") -> None:
        self.ignore_index = ignore_index
        self.counts = torch.zeros(2, BINS, dtype=torch.int64, device=device)

    def update(self, labels: Tensor, targets: Tensor, confidence: Tensor | None) -> None:
        """Count labels, targets and the probabilities of the labels, all (B, H, W)."""
        assert confidence is not None  # by needs_confidence
        counted = targets != self.ignore_index
        # A confidence equal to a threshold belongs to the bin above it.
        bins = (confidence[counted].double() * BINS).long().clamp_(0, BINS - 1)
        wrong = labels[counted] != targets[counted]
        both = (bins, bins[wrong])
        self.counts += torch.stack([torch.bincount(part, minlength=BINS) for part in both])

    def state(self) -> list[Tensor]:
        """Return the tensors to sum over processes."""
        return [self.counts]

    def curve(self) -> Risk:
        """Return the curve of risk and coverage."""
        counts = self.counts.cpu().numpy()
        pixels, wrong = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
        error = ratio(wrong, pixels)
        total = np.full(BINS, pixels[0])
        area = float(np.nansum(counts[0] * error) / total[0]) if total[0] else float("nan")
        return Risk(np.arange(BINS) / BINS, ratio(pixels, total), error, area)
