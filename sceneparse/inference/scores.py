"""Scores of whole images in bands of rows, so that K full-size maps are never held.

The network's logits stay at its output stride. Enlarging, softmax, averaging over windows, scales
and mirror images, and argmax happen band by band.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.inference.windows import Span

# Bytes of one band of scores: what a processor's cache holds, what a GPU hardly notices.
_BAND_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
# exp(-80) is nothing beside 1, and not yet 0.
_LEAST_LOGIT = -80.0


@dataclass(frozen=True)
class Window:
    """What the network said of a window of a scaled image; the window may reach beyond the image.

    `logits` (B, h, w, K) span its rows and columns of pixels with aligned corners. `far_apart`:
    somewhere they differ so much that exponentials vanish.
    """

    logits: Tensor
    rows: Span
    columns: Span
    far_apart: bool = False

    def weighted(self, factor: float) -> Window:
        """Return the same window with `factor` times its share in the score of each pixel."""
        return replace(self, rows=Span(self.rows.start, self.rows.shares * factor))


@dataclass(frozen=True)
class View:
    """One look at a whole image: scaled to `size`, seen through windows."""

    size: tuple[int, int]
    windows: Sequence[Window]


class PixelScores:
    """What several views of a batch of images say of each pixel; the views' logits become its own.

    Probabilities are the mean over views of each view's probabilities. With `average="softmax"` a
    view's probabilities are averaged over its windows, then resized to the image; with "logits"
    the logits are, and become probabilities at the image's size.
    """

    def __init__(self, views: Sequence[View], size: tuple[int, int], average: str) -> None:
        self.size = size
        self.num_classes: int = views[0].windows[0].logits.shape[-1]
        self._softmax_first = average == "softmax"
        self._views = views
        if self._softmax_first:
            self._views = [View(v.size, [_with_largest_zero(w) for w in v.windows]) for v in views]

    def labels(self) -> Tensor:
        """Return the most likely class of each pixel: (B, H, W), uint8 up to 256 classes."""
        only = self._views[0].windows
        # Softmax changes no order, so that what is not averaged need not become probabilities.
        ordered = len(self._views) == 1 and (len(only) == 1 or not self._softmax_first)
        return torch.cat([band.argmax(dim=-1).to(self._type) for band in self._bands(ordered)], 1)

    def labels_and_confidence(self) -> tuple[Tensor, Tensor]:
        """Return the most likely class of each pixel and its probability: (B, H, W) each."""
        confidences, labels = [], []
        for band in self._bands():
            most = band.max(dim=-1)
            confidences.append(most.values)
            labels.append(most.indices.to(self._type))
        return torch.cat(labels, dim=1), torch.cat(confidences, dim=1)

    def probabilities(self) -> Tensor:
        """Return all probabilities: (B, K, H, W), float32. For single, small images."""
        return torch.cat(list(self._bands()), dim=1).permute(0, 3, 1, 2)

    @property
    def _type(self) -> torch.dtype:
        return torch.uint8 if self.num_classes <= 256 else torch.int32

    def _bands(self, ordered_only: bool = False) -> Iterator[Tensor]:
        """Compute scores (B, rows, W, K) from top to bottom.

        With `ordered_only` they are in the order of the probabilities, but not these.
        """
        step = self._band_rows()
        for first in range(0, self.size[0], step):
            last = min(first + step, self.size[0])
            total: Tensor | None = None
            for view in self._views:
                band = self._resized_band(view, first, last, as_logits=ordered_only)
                total = band if total is None else total.add_(band)
            assert total is not None  # there is always a view
            yield total if ordered_only else total.div_(len(self._views))

    def _band_rows(self) -> int:
        """Rows of the image whose scores fill a band, at the largest scale."""
        logits = self._views[0].windows[0].logits
        scale = max(view.size[0] / self.size[0] for view in self._views)
        width = max(self.size[1], *(view.size[1] for view in self._views))
        row = logits.element_size() * len(logits) * self.num_classes * width * max(scale, 1)
        return max(int(_BAND_BYTES.get(logits.device.type, _BAND_BYTES["cpu"]) / row), 1)

    def _resized_band(self, view: View, first: int, last: int, *, as_logits: bool) -> Tensor:
        """Compute a view's scores in rows first..last-1 of the image: (B, rows, W, K)."""
        softmax_first = self._softmax_first and not as_logits
        softmax_last = not self._softmax_first and not as_logits
        if view.size == self.size:
            band = _band(view, first, last, softmax=softmax_first)
        else:
            rows = _positions(first, last, self.size[0], view.size[0])
            top = int(rows[0])
            bottom = min(int(rows[-1]) + 2, view.size[0])
            source = _band(view, top, bottom, softmax=softmax_first)
            # What shrinks goes first, so that the second step has less to do.
            if view.size[1] > self.size[1]:
                source = _resize_columns(source, self.size[1], align_corners=False)
            source = _pick_rows(source, rows - top)
            band = _resize_columns(source, self.size[1], align_corners=False)
        return torch.softmax(band, dim=-1) if softmax_last else band


def _with_largest_zero(window: Window) -> Window:
    """Shift the logits of each feature, in place, so that their exponentials do not overflow.

    What is the same for all classes changes no probability, and stays so when logits are enlarged.
    """
    window.logits.sub_(window.logits.amax(dim=-1, keepdim=True))
    return replace(window, far_apart=bool(window.logits.amin() < _LEAST_LOGIT))


def _band(view: View, first: int, last: int, *, softmax: bool) -> Tensor:
    """Average the windows in rows first..last-1 of the scaled image: (B, rows, W, K)."""
    batch, *_, classes = view.windows[0].logits.shape
    total = view.windows[0].logits.new_zeros(batch, last - first, view.size[1], classes)
    for window in view.windows:
        top, bottom = _common(window.rows, first, last)
        left, right = _common(window.columns, 0, view.size[1])
        if top >= bottom:
            continue
        rows = slice(top - window.rows.start, bottom - window.rows.start)
        columns = slice(left - window.columns.start, right - window.columns.start)
        values = _enlarge(window, rows)[:, :, columns]
        shares = window.rows.shares[rows, None, None] * window.columns.shares[columns, None]
        if softmax:
            if window.far_apart:
                values = values - values.amax(dim=-1, keepdim=True)
            values = values.exp_()
            shares = shares / values.sum(dim=-1, keepdim=True)
        total[:, top - first : bottom - first, left:right].addcmul_(values, shares)
    return total


def _common(span: Span, first: int, last: int) -> tuple[int, int]:
    return max(first, span.start), min(last, span.start + len(span))


def _enlarge(window: Window, rows: slice) -> Tensor:
    """Enlarge a window's logits to some of its rows of pixels: (B, rows, W, K)."""
    features, pixels = window.logits.shape[1], len(window.rows)
    positions = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    positions *= (features - 1) / max(pixels - 1, 1)
    picked = _pick_rows(window.logits, positions)
    return _resize_columns(picked, len(window.columns), align_corners=True)


def _positions(first: int, last: int, size: int, source: int) -> Tensor:
    """Tell where rows first..last-1 of `size` lie among those of `source`, centres on centres."""
    rows = torch.arange(first, last, dtype=torch.float64)
    return ((rows + 0.5) * (source / size) - 0.5).clamp_(0, source - 1)


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
    # Seen as channels-last (B, K, n, w), whose kernel works on all classes of a pixel at once.
    resized = F.interpolate(
        maps.permute(0, 3, 1, 2),
        size=(maps.shape[1], width),
        mode="bilinear",
        align_corners=align_corners,
    )
    return resized.permute(0, 2, 3, 1)
