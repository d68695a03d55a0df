"""A mask on which shapes are painted in turn, for tools whose later shapes cover earlier ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.formats.shared.drawing import coco_runs, fill_runs, require_near, require_size
from sceneparse.data.labels import Labels


class Canvas:
    """Paints shapes into a mask. Coordinates: pixel 0 is between 0 and 1, its centre is 0.5.

    All methods raise ValueError for coordinates that are not finite, or far outside the image.
    """

    def __init__(self, height: int, width: int, label: int) -> None:
        require_size(height, width)
        # COCO's runs go down the columns.
        self._columns = np.full((width, height), label, np.uint16)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        width, height = self._columns.shape
        return height, width

    @property
    def mask(self) -> Labels:
        """The mask as painted so far: (H, W)."""
        return np.asarray(cv2.transpose(self._columns))

    def outline(self, numbers: NDArray[np.float64], label: int) -> None:
        """Fill a polygon of corners x, y (N, 2), or an ellipse: centre, radii and angle (5,)."""
        if numbers.ndim == 2:
            self.polygon(numbers, label)
        else:
            x, y, across, down, angle = numbers.tolist()
            self.ellipse(x, y, (across, down), angle, label)

    def polygon(self, points: NDArray[np.float64], label: int) -> None:
        """Fill a polygon of points x, y (N, 2) as pycocotools does."""
        fill_runs(self._columns.reshape(-1), coco_runs([points], *self.size), label)

    def ellipse(self, x: float, y: float, radii: Sequence[float], angle: float, label: int) -> None:
        """Fill the pixels whose centre lies in an ellipse; `angle`: clockwise, in radians."""
        require_near(np.array([x, y, *radii, angle]), *self.size)
        if min(radii) <= 0:
            raise ValueError(f"an ellipse of radii {', '.join(map(str, radii))}")
        (left, right), (top, bottom) = (
            (max(math.floor(center - max(radii)), 0), min(math.ceil(center + max(radii)), side))
            for center, side in zip((x, y), self.size[::-1], strict=True)
        )
        if left >= right or top >= bottom:
            return
        across = np.arange(left, right)[:, None] + 0.5 - x
        down = np.arange(top, bottom)[None, :] + 0.5 - y
        along = (across * math.cos(angle) + down * math.sin(angle)) / radii[0]
        beside = (down * math.cos(angle) - across * math.sin(angle)) / radii[1]
        self._columns[left:right, top:bottom][along**2 + beside**2 <= 1] = label

    def region(self, pixels: NDArray[np.bool_], left: int, top: int, label: int) -> None:
        """Paint the pixels (h, w) that are true; what lies outside the image is cut off."""
        height, width = self.size
        inside = pixels[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
        left, top = max(left, 0), max(top, 0)
        box = self._columns[left : left + inside.shape[1], top : top + inside.shape[0]]
        box[inside.T] = label
