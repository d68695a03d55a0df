"""Open and decode image files of others: whole, upright and of limited size, or InputError."""

import io
import stat
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from sceneparse.data.damage import require_whole
from sceneparse.data.tiff import read_tiff_header
from sceneparse.errors import InputError, one_line, refusing

# Pillow reads dozens more; some of them pass files to other programs (EPS to Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# A few bytes can stand for any number of pixels. Decoding takes up to 8 bytes per pixel, 12 for
# progressive JPEG and 16 for WebP: less than 1 GB in total.
MAX_IMAGE_PIXELS = 120_000_000
_MAX_PROGRESSIVE_PIXELS, _MAX_WEBP_PIXELS = 80_000_000, 50_000_000
_MAX_SIDE = 65_535
_MAX_FILE_SIZE = 2**30
# EXIF orientations of images that are not stored upright.
_TURNED = range(2, 9)
DAMAGED = "damaged or truncated"


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
            raise _unreadable(path, content) from error
    progressive = _MAX_PROGRESSIVE_PIXELS if image.info.get("progressive") else MAX_IMAGE_PIXELS
    max_pixels = _MAX_WEBP_PIXELS if image.format == "WEBP" else progressive
    require_size(path, image.size, max_pixels)
    return image


def require_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    """Raise InputError for an image of too many pixels; `size`: width and height."""
    if size[0] * size[1] > max_pixels or max(size) > _MAX_SIDE:
        raise InputError(
            f"{path}: cannot be read: Image size {size[0]}x{size[1]} is over "
            f"{max_pixels / 1e6:.0f} million pixels or {_MAX_SIDE} a side; cut it into parts"
        )


def _unreadable(path: Path, content: bytes | None) -> InputError:
    """Return the error for a file that Pillow does not open; of a TIFF, with its kind."""
    header = read_tiff_header(path, path.read_bytes() if content is None else content)
    if header is None:
        return InputError(
            f"{path}: not an image file that can be read (BMP, GIF, JPEG, PNG, PPM, TIFF, WebP)"
        )
    remedy = "save it as 8 or 16-bit unsigned integers"
    if header.bands > 1:
        remedy = "save the three bands to be used as red, green and blue as an RGB image"
    return InputError(f"{path}: {header}, which cannot be read; {remedy}")


def _require_file(path: Path) -> None:
    """Raise InputError for a pipe or device, which may be endless, a folder or a huge file."""
    with refusing(path, "cannot be read"):
        state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe or device"
        raise InputError(f"{path}: not an image file but {kind}")
    if state.st_size > _MAX_FILE_SIZE:
        raise InputError(f"{path}: {state.st_size >> 20} MB are more than an image can have")


def read_content(path: Path) -> bytes:
    """Read an image file whole; raises InputError."""
    _require_file(path)
    with refusing(path, "cannot be read"):
        return path.read_bytes()


@dataclass(frozen=True)
class Decoded:
    """An upright image, and the facts of its file: `bits` per value, EXIF orientation 1..8."""

    image: Image.Image
    content: bytes
    raw_mode: str
    bits: int
    orientation: int


def raw_mode_of(image: Image.Image) -> str:
    """Return how an open file stores its values, such as "I;16B"; "" if Pillow does not tell."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def decode(path: Path, content: bytes | None = None) -> Decoded:
    """Decode an image, or its content if already read, and turn it upright; raises InputError."""
    content = read_content(path) if content is None else content
    with open_image(path, content) as image, refusing(path, DAMAGED):
        raw_mode = raw_mode_of(image)
        # The second picture of a phone's MPO is a preview or depth map. The frames are not
        # counted, because there may be millions.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            several = f"{path}: several frames or pages, the first is used"
            warnings.warn(one_line(several), stacklevel=3)
        require_whole(content, image)
        bits = 16 if image.format == "PNG" and raw_mode.endswith(";16B") else 8
        stored = None
        if isinstance(image, TiffImageFile):  # which Pillow turns upright itself
            bits, stored = _bits_of_tiff(image), image.tag_v2.get(Tag.Orientation)
        image.load()
        remaining = image.getexif().get(Tag.Orientation, 1)
        # Only an image that must be turned is copied.
        upright = ImageOps.exif_transpose(image) if remaining in _TURNED else image
    orientation = stored or remaining
    return Decoded(upright, content, raw_mode, bits, orientation if orientation in _TURNED else 1)


@cache
def warn_once(text: str) -> None:
    """Warn once per process. Python's own filter forgets what it has shown."""
    warnings.warn(text, stacklevel=2)


def _bits_of_tiff(image: TiffImageFile) -> int:
    """Return the bits per value of a TIFF image, and warn of bands that are not used."""
    bands, used = image.tag_v2.get(Tag.SamplesPerPixel, 1), len(image.getbands())
    if image.mode == "RGBA" and Tag.ExtraSamples not in image.tag_v2:
        used = 3  # nothing says that the fourth is alpha
    if bands > used:
        warn_once(f"images have {bands} bands; only the first {used} are used")
    return int(max(image.tag_v2.get(Tag.BitsPerSample, (1,))))
