"""Resize photos and masks to one length of their long or short side, before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Labels

Side = Literal["long", "short"]


@dataclass(frozen=True)
class Resize:
    """Scale images so that their `side`, "long" or "short", has `length` pixels; keep the aspect.

    The setting data.resize, {"long": 640}, is Resize("long", 640).
    """

    side: Side
    length: int

    @classmethod
    def of(cls, setting: Mapping[Side, int] | None) -> Resize | None:
        """Return the resizing that a setting {side: length} describes; None for none."""
        return None if setting is None else cls(*next(iter(setting.items())))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of a resized image."""
        factor = self.length / (max if self.side == "long" else min)(height, width)
        return max(round(height * factor), 1), max(round(width * factor), 1)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) to `size` (h, w): area averages if it shrinks, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: NDArray[Any] = cv2.resize(image, size[::-1], interpolation=kind)
    return resized


def resize_mask(mask: Labels, size: tuple[int, int]) -> Labels:
    """Resize a mask (H, W) to `size` (h, w): the label at the centre of each new pixel."""
    if mask.shape == size:
        return mask
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return np.ascontiguousarray(mask[rows[:, None], columns])
