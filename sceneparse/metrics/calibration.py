"""Calibration: the confidence of predictions against the share of right pixels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.metrics.confusion import ratio

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Per bin (BINS,): share of right pixels, mean confidence, share of all pixels; NaN if empty.

    `error` is the expected calibration error (Naeini et al., AAAI 2015).
    """

    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]
    share: NDArray[np.float64]
    error: float


class CalibrationCounts:
    """Pixels, right pixels and summed confidence in BINS equal bins of confidence: (3, BINS)."""

    needs_confidence = True

    def __init__(self, ignore_index: int, device: torch.device | str = "cpu") -> None:
        self.ignore_index = ignore_index
        self.counts = torch.zeros(3, BINS, dtype=torch.float64, device=device)

    def update(self, labels: Tensor, targets: Tensor, confidence: Tensor | None) -> None:
        """Count labels, targets and the probabilities of the labels, all (B, H, W)."""
        assert confidence is not None  # by needs_confidence
        counted = targets != self.ignore_index
        confidence = confidence[counted].double()
        right = (labels[counted] == targets[counted]).double()
        bins = (confidence * BINS).ceil().long().clamp_(1, BINS) - 1
        weights = (torch.ones_like(right), right, confidence)
        self.counts += torch.stack([torch.bincount(bins, w, minlength=BINS) for w in weights])

    def state(self) -> list[Tensor]:
        """Return the tensors to sum over processes."""
        return [self.counts]

    def curve(self) -> Calibration:
        """Return the curve and its error."""
        pixels, right, summed = self.counts.cpu().numpy()
        accuracy, confidence = ratio(right, pixels), ratio(summed, pixels)
        gaps = np.abs(np.nan_to_num(accuracy) - np.nan_to_num(confidence))
        error = float((pixels * gaps).sum() / pixels.sum()) if pixels.any() else float("nan")
        return Calibration(accuracy, confidence, pixels / max(pixels.sum(), 1), error)
