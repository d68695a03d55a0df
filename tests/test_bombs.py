"""Images made to cost hours or gigabytes, or to start other programs: refused before they do."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_reading import encoded

from sceneparse.data.reading import image_size, read_image, read_mask
from sceneparse.errors import InputError


def black_png(side: int) -> bytes:
    """A square 1-bit PNG whose pixels are never all in memory while it is made."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    row = bytes(1 + (side + 7) // 8)
    compressor = zlib.compressobj()
    pixels = b"".join([*(compressor.compress(row) for _ in range(side)), compressor.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.fault(8)
def test_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(black_png(40))
    np.testing.assert_array_equal(read_mask(tmp_path / "small.png"), np.zeros((40, 40)))

    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(black_png(30000))
    assert bomb.stat().st_size < 200_000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=r"bomb\.png: cannot be read: Image size .*900000000"):
            read(bomb)
    # Kilobytes; unpacked, the image takes 900 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000


def lossless_webp(side: int) -> bytes:
    """A WebP of one colour; its header says how large."""
    stream = io.BytesIO()
    Image.new("RGB", (10, 10), (1, 2, 3)).save(stream, "WEBP", lossless=True)
    whole = stream.getvalue()
    place = whole.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", whole, place)
    bits = bits >> 28 << 28 | (side - 1) << 14 | (side - 1)
    return whole[:place] + struct.pack("<I", bits) + whole[place + 4 :]


def tiff(entries: dict[int, int], data: bytes = b"", pages: int = 1) -> bytes:
    """Little-endian pages that all have the same entries, every value a 32-bit number."""
    rows = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())]
    page = struct.pack("<H", len(rows)) + b"".join(rows)
    after = [8 + number * (len(page) + 4) for number in range(1, pages)] + [0]
    return b"".join(
        [b"II*\0", struct.pack("<I", 8), *(page + struct.pack("<I", at) for at in after), data]
    )


# width, height, bits, compression, photometric, place, samples, rows and bytes of a strip
GREY_TIFF = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 16}
SIDE = 13_000
# Files of a few bytes that claim 169 million pixels.
BOMBS: dict[str, Callable[[], bytes]] = {
    "gif": lambda: (
        b"GIF89a" + struct.pack("<HH", SIDE, SIDE) + b"\x80\0\0\0\0\0\xff\xff\xff"
        b",\0\0\0\0\4\0\4\0\0\2\5\x84\x8f\xa9\x0b\5\0;"
    ),
    "webp": lambda: lossless_webp(SIDE),
    "bmp": lambda: (
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, SIDE, SIDE, 1, 24, *[0] * 6)
    ),
    "ppm": f"P6 {SIDE} {SIDE} 255\n".encode,
    "tif": lambda: tiff(GREY_TIFF | {256: SIDE, 257: SIDE}),
    "jpg": lambda: encoded("JPEG").replace(
        struct.pack(">HH", 40, 50), struct.pack(">HH", SIDE, SIDE)
    ),
    "progressive.jpg": lambda: encoded("JPEG", progressive=True).replace(
        struct.pack(">HH", 40, 50), struct.pack(">HH", 9000, 9000)
    ),
    "long.ppm": lambda: b"P6 1 65536 255\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_every_decoder_has_its_largest_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"x.{name}"
    path.write_bytes(BOMBS[name]())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_image, read_mask, image_size):
        with pytest.raises(InputError, match=rf"x\.{name}: cannot be read: Image size"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes `count` times."""
    whole = encoded("JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + b"\xff\xd9"


def png_of_few_pixels() -> bytes:
    """A PNG of 60 million pixels with the rows of a hundred and all checksums right."""
    whole, pixels = black_png(40), zlib.compress(bytes(200))
    claimed = struct.pack(">II", 6000, 10_000) + bytes([8, 0, 0, 0, 0])
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", claimed), (b"IDAT", pixels), (b"IEND", b""))
    )
    return whole[:8] + chunks


SLOW: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans.jpg": (lambda: scans(2000), "more than 100 scans"),
    "rows.png": (png_of_few_pixels, "most of the pixels are missing"),
    "tiles.tif": (
        lambda: tiff(GREY_TIFF | {322: 32_000, 323: 20_000, 324: 8, 325: 100}, bytes(100)),
        "tiles far larger than the image",
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_what_would_take_hours_or_gigabytes_is_refused(tmp_path: Path, name: str) -> None:
    make, expected = SLOW[name]
    (tmp_path / name).write_bytes(make())
    start, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=f"damaged or truncated: {expected}"):
        read_image(tmp_path / name)
    assert time.monotonic() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000


def test_pages_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(tiff(GREY_TIFF, pages=20_000))
    start = time.monotonic()
    with pytest.warns(UserWarning, match="several frames or pages"):
        assert read_mask(tmp_path / "x.tif").shape == (4, 4)
    assert time.monotonic() - start < 60


def test_no_other_program_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text("#!/bin/sh\ntouch " + str(tmp_path / "started"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "x.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (read_image, read_mask, image_size):
        with pytest.raises(InputError, match="not an image file that can be read"):
            read(path)
    assert not (tmp_path / "started").exists()


def test_pipes_and_devices_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    for path in tmp_path.iterdir():
        for read in (read_image, read_mask, image_size):
            with pytest.raises(InputError, match="not an image file but a pipe or device"):
                read(path)
