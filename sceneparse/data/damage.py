"""Find damage in image files that Pillow does not notice, and files that take hours to decode."""

import struct
import zlib

from PIL import Image
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

# A progressive JPEG has about ten scans; each costs a pass over all its pixels.
_MAX_SCANS = 100
# The best compression that PNG can reach.
_MAX_DEFLATE_RATIO = 1032
_MAX_TILE_PIXELS = 2**24


def require_whole(content: bytes, image: Image.Image) -> None:
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
