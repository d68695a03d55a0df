"""Strict decoding: an image becomes RGB uint8, a mask becomes raw label indices, or an error."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as Tag

from sceneparse.data.decoding import (
    DAMAGED,
    MAX_IMAGE_PIXELS,
    Decoded,
    decode,
    open_image,
    read_content,
    require_size,
    warn_once,
)
from sceneparse.data.tiff import decode_by_opencv, read_tiff_header
from sceneparse.errors import InputError, first_few, refusing
from sceneparse.runtime.threads import usable_cores

# Pillow opens 16-bit grey as any of these, depending on the format.
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}

# Pillow scales 2- and 4-bit grey to 0..255; a mask needs the stored values.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_PIXELS_AT_ONCE = 2**22
# A 16-bit image that stays below this, in 8 bits, fits into 14 bits.
_DARK = 64

# Modes of values that were multiplied by alpha, which Pillow converts to these only.
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_all(
    read: Callable[[_Item], _Result],
    items: Sequence[_Item],
    noun: str = "samples",
    after: Callable[[], None] = lambda: None,
) -> list[_Result]:
    """Apply `read` to all items in parallel; raise InputError with the first problems.

    `after` is called after each item that was read, in any thread.
    """

    def attempt(item: _Item) -> _Result | InputError:
        try:
            result = read(item)
        except InputError as error:
            return error
        after()
        return result

    # Threads are enough, because decoding releases the interpreter lock.
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = list(pool.map(attempt, items))
    problems = [result for result in results if isinstance(result, InputError)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError(
            f"{len(problems)} of {len(items)} {noun} cannot be used: {first_few(problems)}"
        )
    return [result for result in results if not isinstance(result, InputError)]


def read_image(
    path: Path, bit_depth: int | None = None, content: bytes | None = None
) -> NDArray[np.uint8]:
    """Decode an image of any mode to RGB uint8 (H, W, 3), upright by its EXIF orientation.

    Alpha is dropped; 16-bit values are scaled to 8 bits, floating-point values from 0..1. Of
    several frames or pages the first is used, and of many bands the first three, with a warning.
    `bit_depth`: the bits that 16-bit files really use, e.g. 12; white is then 4095. `content`: that
    of the file, if already read. Raises InputError naming the file.
    """
    decoded = decode(path, content)
    bits = bit_depth if decoded.bits == 16 else decoded.bits
    if bits is None or not 8 < bits <= 16:
        image = rgb_array(decoded.image, path)
        if bits is None:
            warn_if_dark(image)
        return image
    if decoded.image.mode in _SIXTEEN_BIT:
        return rgb_array(decoded.image, path, bits)
    return to_bytes(_raw_values(decoded, path), bits, path)


def to_bytes(
    values: NDArray[np.uint16], bit_depth: int | None, source: Path | str
) -> NDArray[np.uint8]:
    """Scale 16-bit values to 8 bits: 2**bit_depth - 1 is white; None: by the high byte.

    Raises InputError naming `source` for values that do not fit into the bits.
    """
    if bit_depth is None:
        return (values >> 8).astype(np.uint8)
    white, largest = 2**bit_depth - 1, int(values.max())
    if largest > white:
        raise InputError(
            f"{source}: values up to {largest} are more than {bit_depth} bits hold ({white}); set "
            f"data.bit_depth to {largest.bit_length()}, or to null if all 16 bits are used"
        )
    scaled = (values.astype(np.uint32) * 255 + white // 2) // white
    return np.asarray(scaled, np.uint8)


def warn_if_dark(image: NDArray[np.uint8]) -> None:
    """Warn once if an image that had 16 bits is dark, since cameras may fill only 12 of them."""
    if image.max() < _DARK:
        warn_once(
            f"a 16-bit image is dark: its values stay below {_DARK << 8} of 65535; if it uses "
            "fewer bits, train with data.bit_depth (`sceneparse check DATA` tells which), or save "
            "it with 8 bits"
        )


def largest_value(path: Path) -> int | None:
    """Return the largest number stored in a 16-bit image; None for other images.

    It is below 4096 if a camera of 12 bits filled a 16-bit file: see `bit_depth` of read_image.
    """
    decoded = decode(path)
    return int(_raw_values(decoded, path).max()) if 8 < decoded.bits <= 16 else None


def _raw_values(decoded: Decoded, path: Path) -> NDArray[np.uint16]:
    """Return the stored numbers of a 16-bit image, upright: (H, W) or (H, W, 3)."""
    if decoded.image.mode in _SIXTEEN_BIT:
        return _in_bands(decoded.image, lambda band: _in_16_bits(band, path))
    if decoded.image.mode not in {"RGB", "RGBA", "LA"}:
        raise InputError(f"{path}: 16-bit {decoded.image.mode}; save it as RGB")
    values = decode_by_opencv(path, decoded.content)  # Pillow keeps 8 bits of colours
    return values if decoded.image.format == "TIFF" else _TURNS[decoded.orientation](values)


# What turns an image upright, by its EXIF orientation.
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: np.rot90,
}


def rgb_array(
    image: Image.Image, path: Path | str, bit_depth: int | None = None
) -> NDArray[np.uint8]:
    """Convert an upright image of any mode as read_image does; errors name `path`."""
    with refusing(path, DAMAGED):  # a palette may be missing
        return _in_bands(image, lambda band: _as_rgb(band, path, bit_depth))


def _as_rgb(image: Image.Image, path: Path | str, bit_depth: int | None) -> NDArray[np.uint8]:
    if image.mode in _STRAIGHT:
        image = image.convert(_STRAIGHT[image.mode])
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
            raise InputError(
                f"{path}: floating-point values {values.min():g}..{values.max():g} outside 0..1; "
                "scale them, or save 8-bit RGB"
            )
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion would clip at 255.
        image = Image.fromarray(to_bytes(_in_16_bits(image, path), bit_depth, path))
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
    """Decode a mask to raw label values (H, W), uint8 or uint16; palette masks give indices.

    Fully transparent pixels become 255, in uint16 65535. Raises InputError naming the file, also
    for colour masks, whose values are not labels, and for partly transparent pixels.
    """
    labels, transparent = read_labels(path)
    if transparent.any():
        labels = labels.copy()
        labels[transparent] = np.iinfo(labels.dtype).max
    return labels


def read_labels(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Decode a mask as read_mask does; return labels and transparent pixels, both (H, W).

    Masks of 32 and 64-bit integers or floating-point numbers are read exactly if all values are
    whole and in 0..65535.
    """
    content = read_content(path)
    header = read_tiff_header(path, content)
    if header is not None and header.needs_opencv:
        for size in ((header.width, header.height), header.tile):
            require_size(path, size, MAX_IMAGE_PIXELS // 2)
        values = decode_by_opencv(path, content)
        return _whole(values, path), np.zeros(values.shape, bool)
    decoded = decode(path, content)
    return _labels_of(decoded, path), _transparent(decoded, path)


def read_colors(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode a mask painted in colours: RGB (H, W, 3), and its transparent pixels (H, W).

    Raises InputError naming the file, also for partly transparent pixels.
    """
    decoded = decode(path)
    return rgb_array(decoded.image, path), _transparent(decoded, path)


def _labels_of(decoded: Decoded, path: Path) -> NDArray[Any]:
    image = decoded.image
    if image.mode in {"LA", "La", "PA"} and not decoded.raw_mode.endswith(";16B"):
        return np.asarray(image.getchannel(0))
    if image.mode in {"L", "P"}:
        step = _GREY_STEPS.get(decoded.raw_mode, 1)
        return np.asarray(image) if step == 1 else np.asarray(image) // step
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in _SIXTEEN_BIT:
        return _in_bands(image, lambda band: _in_16_bits(band, path))
    if image.mode == "F":
        return _in_bands(image, lambda band: _whole(np.asarray(band), path))
    raise InputError(
        f"{path}: a mask must hold one label value per pixel (8 or 16-bit grey, or palette), "
        f"this one is {image.mode}; convert colours to label values first"
    )


def _whole(values: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    """Return numbers of any type as labels; raise InputError if they are none."""
    broken = values != np.floor(values)  # true for NaN too
    if broken.any():
        raise InputError(
            f"{path}: {broken.sum()} pixels hold no whole number, e.g. {values[broken][0]:g}; "
            "a mask must hold one label value per pixel; save it as 8 or 16-bit integers"
        )
    return _in_16_bits(values, path)


def _alpha(decoded: Decoded) -> NDArray[np.uint8] | None:
    """Return the opacity of each pixel (H, W), 0..255; None if all are opaque."""
    image = decoded.image
    if image.mode[-1] in "Aa":
        return np.asarray(image.getchannel(len(image.getbands()) - 1))
    key = image.info.get("transparency")
    if key is None:
        return None
    if isinstance(key, bytes):  # of a palette: the opacity of each index
        opacities = np.full(256, 255, np.uint8)
        opacities[: len(key)] = np.frombuffer(key[:256], np.uint8)
        return np.take(opacities, np.asarray(image))
    # The colour, grey value or index of the transparent pixels.
    step = _GREY_STEPS.get(decoded.raw_mode, 1)
    same = np.asarray(image) == np.asarray(key) * step
    return np.where(same.all(axis=2) if same.ndim == 3 else same, 0, 255).astype(np.uint8)


def _transparent(decoded: Decoded, path: Path) -> NDArray[np.bool_]:
    """Return the transparent pixels (H, W); raise InputError for partly transparent ones."""
    alpha = _alpha(decoded)
    if alpha is None:
        return np.zeros((decoded.image.height, decoded.image.width), bool)
    transparent: NDArray[np.bool_] = alpha == 0
    partly = np.count_nonzero(alpha < 255) - np.count_nonzero(transparent)
    if partly:
        raise InputError(
            f"{path}: {partly} pixels are partly transparent, so their label is not certain; save "
            "the mask without transparency, or with fully transparent pixels where it is ignored"
        )
    return transparent


def _in_16_bits(image: Image.Image | NDArray[Any], path: Path | str) -> NDArray[np.uint16]:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{path}: values {values.min():g}..{values.max():g} outside 0..65535")
    return values.astype(np.uint16)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an upright image, read from its header alone."""
    with open_image(path) as image:
        with refusing(path, DAMAGED):
            # If EXIF does not come first in a PNG, Pillow would decode all pixels to find it. The
            # size of a TIFF is that of the upright image already.
            is_known = "exif" in image.info if image.format == "PNG" else image.format != "TIFF"
            sideways = is_known and image.getexif().get(Tag.Orientation, 1) in range(5, 9)
        return (image.width, image.height) if sideways else (image.height, image.width)
