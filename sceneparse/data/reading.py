"""Strict decoding: an image becomes RGB uint8, a mask becomes raw label indices, or an error."""

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from sceneparse.errors import InputError, first_few, one_line, refusing

# Pillow reads dozens more; some of them pass files to other programs (EPS to Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# A few bytes can stand for any number of pixels. Decoding takes up to 8 bytes per pixel, 12 for
# progressive JPEG and 16 for WebP: less than 1 GB in total.
MAX_IMAGE_PIXELS = 120_000_000
_MAX_PROGRESSIVE_PIXELS, _MAX_WEBP_PIXELS = 80_000_000, 50_000_000
_MAX_SIDE = 65_535
_MAX_FILE_SIZE = 2**30
# A progressive JPEG has about ten scans; each costs a pass over all its pixels.
_MAX_SCANS = 100
# The best compression that PNG can reach.
_MAX_DEFLATE_RATIO = 1032

# Pillow opens 16-bit grey as any of these, depending on the format.
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}

# Pillow scales 2- and 4-bit grey to 0..255; a mask needs the stored values.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_GREY_STEP = "grey_step"
_PIXELS_AT_ONCE = 2**22
_MAX_TILE_PIXELS = 2**24
_DAMAGED = "damaged or truncated"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_all(
    read: Callable[[_Item], _Result], items: Sequence[_Item], noun: str = "samples"
) -> list[_Result]:
    """Apply `read` to all items in parallel; raise InputError with the first problems."""

    def attempt(item: _Item) -> _Result | InputError:
        try:
            return read(item)
        except InputError as error:
            return error

    # Threads are enough, because decoding releases the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(attempt, items))
    problems = [result for result in results if isinstance(result, InputError)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError(
            f"{len(problems)} of {len(items)} {noun} cannot be used: {first_few(problems)}"
        )
    return [result for result in results if not isinstance(result, InputError)]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image of any mode to RGB uint8 (H, W, 3), upright by its EXIF orientation.

    Alpha is dropped; 16-bit values are scaled to 8 bits, floating-point values from 0..1. Of
    several frames or pages the first is used, with a warning. Raises InputError naming the file.
    """
    return rgb_array(_decode(path), path)


def rgb_array(image: Image.Image, path: Path | str) -> NDArray[np.uint8]:
    """Convert an upright image of any mode as read_image does; errors name `path`."""
    with refusing(path, _DAMAGED):  # a palette may be missing
        return _in_bands(image, lambda band: _as_rgb(band, path))


def _as_rgb(image: Image.Image, path: Path | str) -> NDArray[np.uint8]:
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
            raise InputError(
                f"{path}: floating-point values {values.min():g}..{values.max():g} outside 0..1; "
                "scale them, or save 8-bit RGB"
            )
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    if image.mode in _SIXTEEN_BIT:
        # Scaled to 8 bits by the high byte; Pillow's own conversion would clip at 255.
        image = Image.fromarray((_sixteen_bit(image, path) >> 8).astype(np.uint8))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], NDArray[Any]]) -> NDArray[Any]:
    """Convert an image some rows at a time, because whole copies would take twice the memory."""
    rows = max(_PIXELS_AT_ONCE // image.width, 1)
    if rows >= image.height:
        return convert(image)
    first = convert(image.crop((0, 0, image.width, rows)))
    result = np.empty((image.height, *first.shape[1:]), first.dtype)
    result[:rows] = first
    for top in range(rows, image.height, rows):
        bottom = min(top + rows, image.height)
        result[top:bottom] = convert(image.crop((0, top, image.width, bottom)))
    return result


def read_mask(path: Path) -> NDArray[Any]:
    """Decode a mask to raw label indices (H, W), uint8 or uint16; palette masks give indices.

    Raises InputError naming the file, also for colour masks, whose values are not labels.
    """
    image = _decode(path)
    if image.mode in {"L", "P"}:
        step = image.info[_GREY_STEP]
        return np.asarray(image) if step == 1 else np.asarray(image) // step
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in _SIXTEEN_BIT:
        return _in_bands(image, lambda band: _sixteen_bit(band, path))
    raise InputError(
        f"{path}: a mask must hold one label value per pixel (8 or 16-bit grey, or palette), "
        f"this one is {image.mode}; convert colours to label values first"
    )


def _sixteen_bit(image: Image.Image, path: Path | str) -> NDArray[np.uint16]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{path}: values {values.min()}..{values.max()} outside 0..65535")
    return values.astype(np.uint16)


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """Open an image, or its content if already read, without decoding it; raises InputError."""
    if content is None:
        _require_file(path)
    with refusing(path, "cannot be read"), warnings.catch_warnings():
        # Pillow warns about large images and rejects huge ones; a large one is no error.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise InputError(
                f"{path}: not an image file that can be read (BMP, GIF, JPEG, PNG, PPM, TIFF, WebP)"
            ) from error
    progressive = _MAX_PROGRESSIVE_PIXELS if image.info.get("progressive") else MAX_IMAGE_PIXELS
    max_pixels = _MAX_WEBP_PIXELS if image.format == "WEBP" else progressive
    if image.width * image.height > max_pixels or max(image.size) > _MAX_SIDE:
        raise InputError(
            f"{path}: cannot be read: Image size {image.width}x{image.height} is over "
            f"{max_pixels / 1e6:.0f} million pixels or {_MAX_SIDE} a side; cut it into parts"
        )
    return image


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an upright image, read from its header alone."""
    with open_image(path) as image:
        with refusing(path, _DAMAGED):
            # If EXIF does not come first in a PNG, Pillow would decode all pixels to find it.
            exif_is_known = image.format != "PNG" or "exif" in image.info
            sideways = exif_is_known and image.getexif().get(Tag.Orientation, 1) in range(5, 9)
        return (image.width, image.height) if sideways else (image.height, image.width)


def _require_file(path: Path) -> None:
    """Raise InputError for a pipe or device, which may be endless, a folder or a huge file."""
    with refusing(path, "cannot be read"):
        state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe or device"
        raise InputError(f"{path}: not an image file but {kind}")
    if state.st_size > _MAX_FILE_SIZE:
        raise InputError(f"{path}: {state.st_size >> 20} MB are more than an image can have")


def _decode(path: Path) -> Image.Image:
    _require_file(path)
    with refusing(path, "cannot be read"):
        content = path.read_bytes()
    with open_image(path, content) as image, refusing(path, _DAMAGED):
        raw_mode = str(image.tile[0][3]) if image.tile else ""
        # The second picture of a phone's MPO is a preview or depth map. The frames are not
        # counted, because there may be millions.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            several = f"{path}: several frames or pages, the first is used"
            warnings.warn(one_line(several), stacklevel=3)
        _require_whole(content, image)
        image.load()
        # Only an image that must be turned is copied.
        turned = image.getexif().get(Tag.Orientation, 1) in range(2, 9)
        upright = ImageOps.exif_transpose(image) if turned else image
    upright.info[_GREY_STEP] = _GREY_STEPS.get(raw_mode, 1)
    return upright


def _require_whole(content: bytes, image: Image.Image) -> None:
    """Raise ValueError for a damaged PNG or JPEG, and if decoding would take hours or gigabytes.

    Pillow stops reading after the last pixel, and does not check the checksums of a PNG's pixels.
    """
    if image.format == "PNG":
        if _walk_png(content) * _MAX_DEFLATE_RATIO < image.width * image.height // 8:
            raise ValueError("most of the pixels are missing")
    elif image.format in {"JPEG", "MPO"}:
        start = _start_of_scan(content)
        # Among the pixels of a JPEG, FF is followed by 00, so that FF D9 can only be the end.
        if image.format == "JPEG" and content.rfind(b"\xff\xd9") < start:
            raise ValueError("the end of the image is missing")
        if content.count(b"\xff\xda", start) > _MAX_SCANS:
            raise ValueError(f"more than {_MAX_SCANS} scans")
    elif isinstance(image, TiffImageFile):
        tile = image.tag_v2.get(Tag.TileWidth, 0) * image.tag_v2.get(Tag.TileLength, 0)
        if tile > max(_MAX_TILE_PIXELS, image.width * image.height):
            raise ValueError("tiles far larger than the image")


def _start_of_scan(content: bytes) -> int:
    """Return where the pixels of a JPEG start, after segments that may hold a whole preview."""
    position = 2
    while content[position + 1] != 0xDA:
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        position += 1 if content[position + 1] == 0xFF else 2 + length  # FF fills
    return position


def _walk_png(content: bytes) -> int:
    """Compare all checksums of a PNG; return the size of its compressed pixels in bytes."""
    position, name, pixels = 8, b"", 0
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
        pixels += length if name == b"IDAT" else 0
    return pixels
