"""TIFF files that Pillow cannot open, or not exactly: 64-bit values, signed bytes, many bands."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sceneparse.errors import InputError, refusing

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}


class TiffHeader(NamedTuple):
    """What the first image of a TIFF file holds: bands of numbers of some bits and kind."""

    width: int
    height: int
    bands: int
    bits: int
    kind: str
    big_endian: bool
    tile: tuple[int, int]

    def __str__(self) -> str:
        bands = "a band" if self.bands == 1 else f"{self.bands} bands"
        return f"a TIFF with {bands} of {self.bits}-bit {self.kind}"

    @property
    def needs_opencv(self) -> bool:
        """Whether it holds one band of numbers that Pillow cannot read, or reads as others."""
        odd = self.bits == 64 or (self.bits, self.kind) == (8, _KINDS[2])
        odd |= self.big_endian and (self.bits, self.kind) == (32, _KINDS[1])
        return self.bands == 1 and odd


def read_tiff_header(path: Path, content: bytes) -> TiffHeader | None:
    """Read the header of a TIFF file from its content; None if it is none. Raises InputError."""
    if not content.startswith(_STARTS):
        return None
    with refusing(path, "damaged or truncated"):
        tags = ImageFileDirectory_v2(
            content[:16] if content[2:4].strip(b"\0") == b"+" else content[:8]
        )
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        kind = int(tags.get(Tag.SampleFormat, (1,))[0])
        return TiffHeader(
            int(tags[Tag.ImageWidth]),
            int(tags[Tag.ImageLength]),
            int(tags.get(Tag.SamplesPerPixel, 1)),
            max(map(int, tags.get(Tag.BitsPerSample, (1,)))),
            _KINDS.get(kind, "numbers of another kind"),
            content.startswith(b"MM"),
            (int(tags.get(Tag.TileWidth, 0)), int(tags.get(Tag.TileLength, 0))),
        )


def decode_by_opencv(path: Path, content: bytes) -> NDArray[Any]:
    """Decode a PNG or TIFF to its stored numbers: (H, W), or (H, W, 3) in RGB. Raises InputError.

    The size must have been checked. TIFF files are turned upright, PNG files are not.
    """
    log = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 has moved the functions
    level = log.getLogLevel()
    log.setLogLevel(0)  # silent: the error below tells it
    try:
        with refusing(path, "cannot be decoded"):
            values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        log.setLogLevel(level)
    if values is None:
        raise InputError(
            f"{path}: cannot be decoded by OpenCV {cv2.__version__}; save it as PNG of 8 or 16 bits"
        )
    return values if values.ndim == 2 else np.ascontiguousarray(values[..., 2::-1])
