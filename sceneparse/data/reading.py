"""Strict decoding: an image becomes RGB uint8, a mask becomes raw label indices, or an error.

A file that is truncated, of another kind, or too large never passes in silence.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
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
_LARGEST_AT_ONCE = 2**24
_ORIENTATION = 0x0112  # of EXIF
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

    Alpha is dropped; 16-bit values are scaled to 8 bits, floating-point ones from 0..1. Of several
    frames or pages the first is taken, with a warning. Raises InputError naming the file.
    """
    return rgb_array(_decode(path), path)


def rgb_array(image: Image.Image, path: Path | str) -> NDArray[np.uint8]:
    """Convert an upright image of any mode as read_image does; errors name `path`."""
    if image.mode == "F":
        image = _from_unit_range(image, path)
    if image.mode in _SIXTEEN_BIT:
        # Scaled to 8 bits by the high byte; Pillow's own conversion would clip at 255.
        image = Image.fromarray((_sixteen_bit(image, path) >> 8).astype(np.uint8))
    return _as_array(image if image.mode == "RGB" else image.convert("RGB"))


def _as_array(image: Image.Image) -> NDArray[np.uint8]:
    """Copy the pixels out of an RGB image, a band at a time: Pillow would hold them twice more."""
    if image.height * image.width <= _LARGEST_AT_ONCE:
        return np.asarray(image)
    result = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, 256):
        bottom = min(top + 256, image.height)
        result[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return result


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


def _from_unit_range(image: Image.Image, path: Path | str) -> Image.Image:
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
        raise InputError(
            f"{path}: floating-point values {values.min():g}..{values.max():g} outside 0..1; "
            "scale them, or save 8-bit RGB"
        )
    return Image.fromarray((values * 255).round().astype(np.uint8))


def _sixteen_bit(image: Image.Image, path: Path | str) -> NDArray[np.uint16]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{path}: values {values.min()}..{values.max()} outside 0..65535")
    return values.astype(np.uint16)


def open_image(path: Path) -> Image.Image:
    """Open an image without decoding it; raises InputError naming a file that is none."""
    return _open(path, path)


def image_size(path: Path) -> tuple[int, int]:
    """Tell height and width of an upright image from its header alone."""
    with open_image(path) as image:
        try:
            # Of a PNG whose EXIF does not come first, Pillow would decode all pixels to find it.
            here = image.format != "PNG" or "exif" in image.info
            sideways = here and image.getexif().get(_ORIENTATION, 1) in range(5, 9)
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged or truncated: {_reason(error)}") from error
        return (image.width, image.height) if sideways else (image.height, image.width)


def _open(path: Path, source: Path | io.BytesIO) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and refuses huge ones; a large one is not an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(source)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image file that can be read") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error


def _decode(path: Path) -> Image.Image:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}") from error
    with _open(path, io.BytesIO(content)) as image:
        raw_mode = image.tile[0][3] if image.tile else None
        # The second picture of a phone's MPO is a preview or depth map.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            warnings.warn(f"{path}: {frames} frames or pages, the first is used", stacklevel=3)
        try:
            _require_the_end(content, image.format)
            image.load()
            # A copy is made only of what must be turned.
            turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
            upright = ImageOps.exif_transpose(image) if turned else image
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged or truncated: {_reason(error)}") from error
    upright.info[_GREY_STEP] = _GREY_STEPS.get(raw_mode, 1) if isinstance(raw_mode, str) else 1
    return upright


def _require_the_end(content: bytes, kind: str | None) -> None:
    """Raise ValueError for a PNG or JPEG that breaks off behind its last pixel, or has bit errors.

    Pillow stops reading there, and does not look at the checksums of a PNG's pixels.
    """
    if kind == "PNG":
        _walk_png(content)
    # Among the pixels of a JPEG, FF is followed by 00, so that FF D9 can only be the end.
    elif kind == "JPEG" and content.rfind(b"\xff\xd9") < _start_of_scan(content):
        raise ValueError("the end of the image is missing")


def _start_of_scan(content: bytes) -> int:
    """Step over the segments before the pixels of a JPEG, which can hold a whole preview."""
    position = 2
    while content[position + 1] != 0xDA:
        is_fill = content[position + 1] == 0xFF
        position += (
            1 if is_fill else 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        )
    return position


def _walk_png(content: bytes) -> None:
    position, name = 8, b""
    view = memoryview(content)
    while name != b"IEND":
        if position + 12 > len(content):
            raise ValueError("the end of the image is missing")
        length, name = struct.unpack_from(">I4s", content, position)
        checked = view[position + 4 : position + 8 + length]
        position += 12 + length
        stored = content[position - 4 : position]
        if len(stored) < 4 or zlib.crc32(checked).to_bytes(4, "big") != stored:
            raise ValueError(f"wrong checksum in chunk {name.decode('latin-1')}")


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
