"""Scores of whole images in bands of rows, so that memory never holds K full-size maps.

The network's logits stay at its output stride. Upsampling, softmax, averaging over windows, scales
and mirror images, and argmax happen band by band.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.inference.windows import Span
from sceneparse.runtime.devices import as_float64, counting_device

# Bytes of one band of scores: they fit into a processor's cache, and are few for a GPU.
_BAND_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
# exp(-80) is negligible beside 1, but not 0.
_MIN_LOGIT = -80.0


@dataclass(frozen=True)
class Window:
    """The network's output for a window of a scaled image; windows may extend beyond the image.

    `logits` (B, h, w, K) span its rows and columns of pixels, with aligned corners or centres.
    `lowest`: the lowest logit, if the highest of each feature is 0.
    """

    logits: Tensor
    rows: Span
    columns: Span
    lowest: float = 0.0
    align_corners: bool = True


@dataclass(frozen=True)
class View:
    """The windows that cover a whole image scaled to `size`.

    `align_corners`: how scores at that size are resized to the image.
    """

    size: tuple[int, int]
    windows: Sequence[Window]
    align_corners: bool = False


class PixelScores:
    """The scores of each pixel from several views of a batch of images.

    Probabilities are the mean of the views' probabilities. With `average="softmax"`, a view's
    probabilities are averaged over its windows, then resized to the image; with "logits", the
    logits are, and softmax follows at the image's size. The views' logits may be changed in place.
    `temperature`: logits are divided by it before softmax (Guo et al., ICML 2017).
    """

    def __init__(
        self,
        views: Sequence[View],
        size: tuple[int, int],
        average: str,
        temperature: float = 1.0,
    ) -> None:
        self.size, self.temperature = size, temperature
        self.num_classes: int = views[0].windows[0].logits.shape[-1]
        self._softmax_first = average == "softmax"
        self._views = views
        if self._softmax_first:
            self._views = [replace(v, windows=[*map(_shift_to_zero, v.windows)]) for v in views]

    def labels(self) -> Tensor:
        """Return the most likely class of each pixel: (B, H, W), uint8 up to 256 classes."""
        bands = self._bands(self._keeps_order)
        return torch.cat([band.argmax(dim=-1).to(self._type) for band in bands], 1)

    def labels_and_loss(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels, and two sums over pixels (2,): weighted cross entropies, weights.

        `targets` (B, H, W): true classes; other numbers are not counted. `weights` (K,): of the
        pixels by true class. Sums in float64, on the counting device.
        """
        labels, first = [], 0
        sums = torch.zeros(2, dtype=torch.float64, device=counting_device(weights.device))
        for band in self._bands(self._keeps_order):
            labels.append(band.argmax(dim=-1).to(self._type))
            truth = targets[:, first : first + band.shape[1]].long()
            first += band.shape[1]
            counted = truth < self.num_classes
            truth = truth.where(counted, 0)
            losses = self._cross_entropy(band, truth)
            shares = as_float64(weights[truth] * counted)
            sums += torch.stack([(losses.to(sums.device) * shares).sum(), shares.sum()])
        return torch.cat(labels, dim=1), sums

    def losses_at(
        self, temperatures: Sequence[float], rows: slice, targets: Tensor
    ) -> tuple[Tensor, int]:
        """Return summed cross entropies at each temperature (T,), float64, and of how many pixels.

        `rows` of the image alone are counted. `targets` (B, H, W): true classes; other numbers are
        not counted.
        """
        truth = targets[:, rows].long()
        counted = truth < self.num_classes
        truth = truth[counted]
        logits = self._rows(rows, ordered_only=True)[counted] if self._keeps_order else None
        sums = []
        for temperature in temperatures:
            scores = self.at(temperature)
            values = scores._rows(rows)[counted] if logits is None else logits
            sums.append(as_float64(scores._cross_entropy(values, truth)).sum())
        return torch.stack(sums), len(truth)

    def at(self, temperature: float) -> PixelScores:
        """Return the same scores at another temperature."""
        scores = copy.copy(self)
        scores.temperature = temperature
        return scores

    def _cross_entropy(self, scores: Tensor, truth: Tensor) -> Tensor:
        """Return the cross entropy of pixels (...), from what _rows yields (..., K)."""
        if self._keeps_order and self.temperature != 1:
            scores = scores / self.temperature
        wanted = scores.gather(-1, truth[..., None])[..., 0].float()
        if self._keeps_order:
            return scores.float().logsumexp(dim=-1) - wanted
        return -wanted.clamp(min=torch.finfo(torch.float32).tiny).log()

    def labels_and_confidence(self) -> tuple[Tensor, Tensor]:
        """Return the most likely class of each pixel and its probability: (B, H, W) each."""
        best = (band.max(dim=-1) for band in self._bands())
        parts = [(found.indices.to(self._type), found.values) for found in best]
        labels, confidence = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return labels, confidence

    def confidence_in(self, given: Tensor) -> Tensor:
        """Return the probability of the `given` classes (B, H, W); 0 for numbers of no class."""
        parts, first = [], 0
        for band in self._bands():
            classes = given[:, first : first + band.shape[1]]
            first += band.shape[1]
            known = classes < self.num_classes
            parts.append(band.gather(-1, classes.where(known, 0)[..., None])[..., 0] * known)
        return torch.cat(parts, dim=1)

    def probabilities(self) -> Tensor:
        """Return all probabilities: (B, K, H, W), float32; for small batches of small images."""
        return torch.cat(list(self._bands()), dim=1).permute(0, 3, 1, 2)

    @property
    def _keeps_order(self) -> bool:
        """Whether logits have the order of the probabilities: softmax is not averaged."""
        only = self._views[0].windows
        return len(self._views) == 1 and (len(only) == 1 or not self._softmax_first)

    @property
    def _type(self) -> torch.dtype:
        return torch.uint8 if self.num_classes <= 256 else torch.int32

    def _bands(self, ordered_only: bool = False) -> Iterator[Tensor]:
        """Yield the scores of all rows, from top to bottom, as _rows returns them."""
        step = self._band_rows()
        for first in range(0, self.size[0], step):
            yield self._rows(slice(first, min(first + step, self.size[0])), ordered_only)

    def _rows(self, rows: slice, ordered_only: bool = False) -> Tensor:
        """Compute the probabilities in rows of the image: (B, rows, W, K).

        With `ordered_only`, logits, whose order is that of the probabilities at any temperature.
        """
        first, last = rows.start, rows.stop
        bands = (self._resized_band(v, first, last, as_logits=ordered_only) for v in self._views)
        total = reduce(Tensor.add_, bands)
        return total if ordered_only else total.div_(len(self._views))

    def _band_rows(self) -> int:
        """Return how many rows of the image fill a band, at the largest scale."""
        logits = self._views[0].windows[0].logits
        scale = max(view.size[0] / self.size[0] for view in self._views)
        width = max(self.size[1], *(view.size[1] for view in self._views))
        row = logits.element_size() * len(logits) * self.num_classes * width * max(scale, 1)
        return max(int(_BAND_BYTES.get(logits.device.type, _BAND_BYTES["cpu"]) / row), 1)

    def _resized_band(self, view: View, first: int, last: int, *, as_logits: bool) -> Tensor:
        """Compute a view's scores in rows first..last-1 of the image: (B, rows, W, K)."""
        softmax_at = self.temperature if self._softmax_first and not as_logits else None
        if view.size == self.size:
            band = _band(view, first, last, softmax_at)
        else:
            aligned = view.align_corners
            rows = _positions(slice(first, last), view.size[0], self.size[0], aligned)
            top = int(rows[0])
            bottom = min(int(rows[-1]) + 2, view.size[0])
            source = _band(view, top, bottom, softmax_at)
            # Columns first if they shrink, so that rows have less to do.
            if view.size[1] > self.size[1]:
                source = _resize_columns(source, self.size[1], align_corners=aligned)
            source = _pick_rows(source, rows - top)
            band = _resize_columns(source, self.size[1], align_corners=aligned)
        if self._softmax_first or as_logits:
            return band
        return torch.softmax(band if self.temperature == 1 else band / self.temperature, dim=-1)


def _shift_to_zero(window: Window) -> Window:
    """Shift the logits of each feature, in place, so that their exponentials do not overflow.

    A shift of all classes changes no probability, also not after upsampling.
    """
    window.logits.sub_(window.logits.amax(dim=-1, keepdim=True))
    return replace(window, lowest=float(window.logits.amin()))


def _band(view: View, first: int, last: int, softmax_at: float | None) -> Tensor:
    """Average the windows in rows first..last-1 of the scaled image: (B, rows, W, K).

    `softmax_at`: a temperature, to average probabilities; None: to average logits.
    """
    batch, *_, classes = view.windows[0].logits.shape
    total = view.windows[0].logits.new_zeros(batch, last - first, view.size[1], classes)
    for window in view.windows:
        top, bottom = _common(window.rows, first, last)
        left, right = _common(window.columns, 0, view.size[1])
        if top >= bottom:
            continue
        rows = slice(top - window.rows.start, bottom - window.rows.start)
        columns = slice(left - window.columns.start, right - window.columns.start)
        values = _upsample(window, rows)[:, :, columns]
        shares = window.rows.shares[rows, None, None] * window.columns.shares[columns, None]
        if softmax_at is not None:
            if window.lowest < _MIN_LOGIT * softmax_at:
                values = values - values.amax(dim=-1, keepdim=True)
            if softmax_at != 1:
                values = values.div_(softmax_at)
            values = values.exp_()
            shares = shares / values.sum(dim=-1, keepdim=True)
        total[:, top - first : bottom - first, left:right].addcmul_(values, shares)
    return total


def _common(span: Span, first: int, last: int) -> tuple[int, int]:
    return max(first, span.start), min(last, span.start + len(span))


def _upsample(window: Window, rows: slice) -> Tensor:
    """Upsample a window's logits to some of its rows of pixels: (B, rows, W, K)."""
    aligned = window.align_corners
    positions = _positions(rows, window.logits.shape[1], len(window.rows), aligned)
    picked = _pick_rows(window.logits, positions)
    return _resize_columns(picked, len(window.columns), align_corners=aligned)


def _positions(rows: slice, source: int, target: int, align_corners: bool) -> Tensor:
    """Return where some of `target` rows lie among `source` rows: (n,)."""
    positions = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    if align_corners:
        return positions * ((source - 1) / max(target - 1, 1))
    return ((positions + 0.5) * (source / target) - 0.5).clamp_(0, source - 1)


def _pick_rows(maps: Tensor, positions: Tensor) -> Tensor:
    """Interpolate rows at fractional positions (n,): (B, h, w, K) -> (B, n, w, K)."""
    low = positions.floor().long()
    high = (low + 1).clamp_(max=maps.shape[1] - 1)
    share = (positions - low).to(maps.dtype)[:, None, None].to(maps.device)
    low, high = low.to(maps.device), high.to(maps.device)
    return torch.lerp(maps.index_select(1, low), maps.index_select(1, high), share)


def _resize_columns(maps: Tensor, width: int, *, align_corners: bool) -> Tensor:
    """Interpolate (B, n, w, K) -> (B, n, width, K)."""
    if maps.shape[2] == width:
        return maps
    # The kernel for channels-last (B, K, n, w) works on all classes of a pixel at once.
    resized = F.interpolate(
        maps.permute(0, 3, 1, 2),
        size=(maps.shape[1], width),
        mode="bilinear",
        align_corners=align_corners,
    )
    return resized.permute(0, 2, 3, 1)
