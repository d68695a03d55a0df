"""Strict decoding: an image becomes RGB uint8, a mask becomes raw label indices, or an error.

A file that is truncated, of another kind, or too large never passes in silence.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sceneparse.errors import InputError

# Pillow opens 16-bit grey as any of these, depending on the format.
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}

# Pillow spreads 2- and 4-bit grey over 0..255; a mask wants the stored values back.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_GREY_STEP = "grey_step"
# Pillow raises any of these on damaged data, depending on the format.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    struct.error,
)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image of any mode to RGB uint8 (H, W, 3), upright by its EXIF orientation.

    Alpha is dropped; 16-bit values are scaled to 8 bits. Raises InputError naming the file.
    """
    image = _decode(path)
    if image.mode == "F":
        raise InputError(
            f"{path}: a floating-point image has no defined range; save it as 8-bit RGB"
        )
    if image.mode in _SIXTEEN_BIT:
        # Scaled to 8 bits by the high byte; Pillow's own conversion would clip at 255.
        image = Image.fromarray((_sixteen_bit(image, path) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def read_mask(path: Path) -> NDArray[Any]:
    """Decode a mask to raw label indices (H, W), uint8 or uint16; palette masks give indices.

    Raises InputError naming the file, also for colour masks, whose values are not labels.
    """
    image = _decode(path)
    if image.mode in {"L", "P"}:
        stored: NDArray[np.uint8] = np.asarray(image) // image.info.get(_GREY_STEP, 1)
        return stored
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in _SIXTEEN_BIT:
        return _sixteen_bit(image, path)
    raise InputError(
        f"{path}: a mask must hold one label value per pixel (8 or 16-bit grey, or palette), "
        f"this one is {image.mode}; convert colours to label values first"
    )


def _sixteen_bit(image: Image.Image, path: Path) -> NDArray[np.uint16]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{path}: values {values.min()}..{values.max()} outside 0..65535")
    return values.astype(np.uint16)


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and refuses huge ones; a large one is not an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image file that can be read") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error


def _decode(path: Path) -> Image.Image:
    with _open(path) as image:
        raw_mode = image.tile[0][3] if image.tile else None
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged or truncated: {_reason(error)}") from error
    upright.info[_GREY_STEP] = _GREY_STEPS.get(raw_mode, 1) if isinstance(raw_mode, str) else 1
    return upright


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
