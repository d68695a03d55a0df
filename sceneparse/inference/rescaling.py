"""Rescale images to the sizes of a protocol, before or after they are normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sceneparse.data.resizing import resize_image
from sceneparse.errors import InputError

Normalize = Callable[[Tensor], Tensor]
Rescale = Literal["float", "uint8", "training"]


def rescale_images(
    images: Tensor, sizes: Sequence[tuple[int, int]], rescale: Rescale, normalize: Normalize
) -> Iterator[Tensor]:
    """Yield images (B, 3, H, W), normalised, at each size; `rescale`: see Protocol."""
    if rescale == "float":
        normalized = normalize(images)
    for size in sizes:
        if rescale != "float":
            yield normalize(_resize_pixels(images, size, rescale))
        elif images.shape[-2:] == size:
            yield normalized
        else:
            yield F.interpolate(normalized, size=size, mode="bilinear", align_corners=False)


def _resize_pixels(images: Tensor, size: tuple[int, int], rescale: Rescale) -> Tensor:
    """Resize uint8 images (B, 3, H, W) to whole numbers."""
    if images.shape[-2:] == size:
        return images
    if images.dtype != torch.uint8:
        raise InputError("this protocol rescales pixels: give uint8 images and a normalisation")
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
    resize = _resize_by_opencv if rescale == "uint8" else resize_image
    resized = np.stack([resize(image, size) for image in pixels])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).to(images.device)


def _resize_by_opencv(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[Any]:
    """Resize as mmcv.imrescale does."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
