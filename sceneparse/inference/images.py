"""Turn what programs hold as an image (files, Pillow images, arrays, tensors) into RGB pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sceneparse.data.reading import read_image, rgb_array, to_bytes, warn_if_dark
from sceneparse.errors import InputError, refusing
from sceneparse.report.pictures import Picture

ImageLike = str | Path | Image.Image | NDArray[Any] | torch.Tensor

_TYPES = "a file name, a Pillow image, an array or a tensor"
# Floats that were computed may leave 0..1 by rounding.
_ROUNDING = 1e-4


def load_picture(image: ImageLike, bit_depth: int | None = None) -> Picture:
    """Return an image as uint8 RGB (H, W, 3).

    Files and Pillow images may have any mode; EXIF orientation is applied. Arrays (H, W, C) and
    tensors (C, H, W) are grey, RGB or RGBA, grey ones also (H, W), of uint8, uint16 or floats in
    0..1. Alpha is dropped. uint16 is scaled by its high byte, or by `bit_depth`, as in files.
    Raises InputError.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image).expanduser(), bit_depth)
    if isinstance(image, Image.Image):
        with refusing("the Pillow image", "cannot be read"):
            upright = ImageOps.exif_transpose(image)
        return rgb_array(upright, "the Pillow image", bit_depth)
    if isinstance(image, torch.Tensor):
        return _from_array(_channels_last(image), "tensor (C, H, W)", tuple(image.shape), bit_depth)
    if isinstance(image, np.ndarray):
        return _from_array(image, "array (H, W, C)", image.shape, bit_depth)
    raise InputError(f"an image must be {_TYPES}, got {type(image).__name__}")


def _channels_last(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor (C, H, W) or (H, W) as an array (H, W, C) or (H, W)."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # which NumPy does not have
        tensor = tensor.float()
    array: NDArray[Any] = tensor.numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array


def _from_array(
    array: NDArray[Any], kind: str, shape: tuple[int, ...], bit_depth: int | None
) -> Picture:
    if array.ndim == 4:
        raise InputError(f"an image {kind} must hold one image, got {shape}; pass a list of images")
    grey = array[..., None] if array.ndim == 2 else array
    if grey.ndim != 3 or grey.shape[2] not in {1, 3, 4} or not grey.size:
        hint = ""
        if grey.ndim == 3 and grey.shape[0] in {1, 3, 4}:
            hint = "; move the channels to the last axis: array.transpose(1, 2, 0)"
        elif grey.ndim == 3 and grey.shape[1] in {1, 3, 4}:
            hint = "; move the channels to the first axis: tensor.permute(2, 0, 1)"
        least = "" if grey.size else " and at least one pixel"
        raise InputError(f"an image {kind} must have 1, 3 or 4 channels{least}, got {shape}{hint}")
    channels = _as_bytes(grey[..., :3], kind, bit_depth)
    # A copy, so that views with negative steps (BGR to RGB, mirrored) can be used everywhere.
    rgb: Picture = np.ascontiguousarray(np.broadcast_to(channels, (*channels.shape[:2], 3)))
    return rgb


def _as_bytes(values: NDArray[Any], kind: str, bit_depth: int | None) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        image = to_bytes(values, bit_depth, f"an image {kind}")
        if bit_depth is None:
            warn_if_dark(image)
        return image
    if values.dtype.kind != "f":
        raise InputError(
            f"an image {kind} must hold uint8, uint16 or floats in 0..1, got {values.dtype}; "
            "convert it, whole numbers 0..255 e.g. with array.astype(np.uint8)"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # true for NaN too
        raise InputError(
            f"an image {kind} of floats must be in 0..1, got {low:g}..{high:g}; divide values of "
            "0..255 by 255, or undo the normalisation"
        )
    scaled: NDArray[np.uint8] = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return scaled
