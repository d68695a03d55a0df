"""Measure evaluation outside the network, against float64 maps of all classes per scale.

The task: 150 classes on one image of 2048x1024, the paper's test protocol (windows of 768, two
scales, mirror images).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from timeit import timeit
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.rows import Row, cost_row
from sceneparse.inference.protocols import create_protocol
from sceneparse.models import create_segmentation_model
from sceneparse.models.segmentation import SegmentationModel, SegmentationNetwork
from sceneparse.runtime.memory import in_a_process, peak_memory

_CLASSES, _SIZE, _CROP, _BASE = 150, (1024, 2048), 768, 2048
# Two of the six usual scales, near the ends of their range: a minute instead of four.
_SCALES = (0.75, 1.25)


def measure() -> list[Row]:
    """Measure both ways in processes of their own, and the network on one window."""
    network = _network_seconds()
    ours, plain = (in_a_process(_cost, way) for way in (_ours, _plain))
    shares = [100 * seconds / network for seconds, _ in (ours, plain)]
    return [
        cost_row("eval_outside_network", [ours[0]], [plain[0]], "s"),
        cost_row("eval_overhead_share", [shares[0]], [shares[1]], "%"),
        cost_row("eval_peak_memory_mb", [ours[1]], [plain[1]], "MB"),
    ]


def _cost(way: Callable[[nn.Module, Tensor], object]) -> tuple[float, float]:
    """Return the seconds and megabytes that a way of testing takes."""
    model = _Instant()
    image = torch.randn(1, 3, *_SIZE)
    small = torch.randn(1, 3, 64, 64)
    create_protocol("spnet", crop=(32, 32))(cast("SegmentationModel", model), small).labels()
    before, start = peak_memory(), perf_counter()
    with torch.inference_mode():
        way(model, image)
    return perf_counter() - start, (peak_memory() - before) / 2**20


class _Instant(SegmentationNetwork):
    """Returns constant logits at stride 8, so that only time outside the network is measured."""

    output_stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.randn(1, _CLASSES, _CROP // 8, _CROP // 8)

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        height, width = (length // 8 for length in images.shape[-2:])
        return {"out": self.logits[..., :height, :width].expand(len(images), -1, -1, -1)}


def _ours(model: nn.Module, image: Tensor) -> Tensor:
    protocol = create_protocol("spnet", crop=(_CROP, _CROP), base=_BASE, scales=_SCALES)
    return protocol(cast("SegmentationModel", model), image).labels()


def _plain(model: nn.Module, image: Tensor) -> NDArray[np.int64]:
    probabilities = plain_test(
        lambda window: model(window, upsample=False)["out"],
        image,
        crop=_CROP,
        base=_BASE,
        scales=_SCALES,
    )
    labels: NDArray[np.int64] = probabilities.argmax(axis=2)
    return labels


def plain_test(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    crop: int,
    base: int,
    scales: tuple[float, ...],
) -> NDArray[np.float64]:
    """Test an image (1, 3, H, W) as research code does: probabilities (H, W, K).

    A float64 map of all classes for each scale, one window and its mirror image at a time.
    """
    height, width = image.shape[-2:]
    picture = image[0].permute(1, 2, 0).numpy()
    total: NDArray[np.float64] | None = None
    for scale in scales:
        factor = round(scale * base) / max(height, width)
        size = round(width * factor), round(height * factor)
        scaled = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        probabilities = _plain_scale(network, np.asarray(scaled), crop)
        resized = _resize_channels(probabilities, (width, height))
        total = resized if total is None else total + resized
    assert total is not None  # there is always a scale
    return total / len(scales)


def _plain_scale(
    network: Callable[[Tensor], Tensor], picture: NDArray[np.float32], crop: int
) -> NDArray[np.float64]:
    height, width = picture.shape[:2]
    high, wide = max(crop - height, 0), max(crop - width, 0)
    margins = (high // 2, high - high // 2), (wide // 2, wide - wide // 2), (0, 0)
    padded = np.pad(picture, margins)
    stride = int(np.ceil(crop * 2 / 3))
    rows = int(np.ceil((padded.shape[0] - crop) / stride)) + 1
    columns = int(np.ceil((padded.shape[1] - crop) / stride)) + 1
    total: NDArray[np.float64] | None = None
    seen = np.zeros((*padded.shape[:2], 1))
    for row in range(rows):
        for column in range(columns):
            bottom = min(row * stride + crop, padded.shape[0])
            right = min(column * stride + crop, padded.shape[1])
            where = slice(bottom - crop, bottom), slice(right - crop, right)
            found = _plain_window(network, padded[where])
            if total is None:
                total = np.zeros((*padded.shape[:2], found.shape[2]))
            total[where] += found
            seen[where] += 1
    assert total is not None  # there is always a window
    total /= seen
    return total[margins[0][0] :, margins[1][0] :][:height, :width]


def _plain_window(
    network: Callable[[Tensor], Tensor], picture: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Average the softmax of a window and its mirror image: (h, w, K)."""
    window = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    logits = network(torch.cat([window, window.flip(3)]))
    full = nn.functional.interpolate(
        logits, window.shape[-2:], mode="bilinear", align_corners=True
    ).softmax(dim=1)
    mean: NDArray[np.float32] = ((full[0] + full[1].flip(2)) / 2).permute(1, 2, 0).numpy()
    return mean


def _resize_channels(maps: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Resize maps of many channels, four at once because of OpenCV's limit."""
    parts = [
        cv2.resize(np.ascontiguousarray(maps[..., first : first + 4]), size)
        for first in range(0, maps.shape[2], 4)
    ]
    return np.concatenate([part.reshape(*size[::-1], -1) for part in parts], axis=2)


def _network_seconds() -> float:
    """Return the seconds of SPNet-50 for all windows: those of one window, times their number."""
    model = create_segmentation_model("strip_pooling", "resnet50", _CLASSES, aux=False).eval()
    model.to(memory_format=torch.channels_last)
    window = torch.randn(1, 3, _CROP, _CROP).contiguous(memory_format=torch.channels_last)
    counted = _Counting()
    protocol = create_protocol("spnet", crop=(_CROP, _CROP), base=_BASE, scales=_SCALES)
    protocol(cast("SegmentationModel", counted), torch.empty(1, 3, *_SIZE))
    with torch.inference_mode():
        model(window, upsample=False)
        passes = [timeit(lambda: model(window, upsample=False), number=1) for _ in range(3)]
    return median(passes) * counted.windows


class _Counting(_Instant):
    """Counts the windows it is shown."""

    windows = 0

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        self.windows += len(images)
        return super().forward(images, upsample)
