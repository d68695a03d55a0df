"""Valid files made invalid: bits, lengths, cuts, pieces swapped and repeated."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

# Bytes that say of what kind a file is.
_KIND = 8
# Numbers at which lengths, sizes and offsets overflow.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 30_000)
_WORDS = (
    *(b"../", b"/etc/passwd", b"\x00", b"\n", b"\x1b[2J", b"1e999", b"-1", b"nan", b"null", b"[]"),
    *(
        b"{}",
        b'"',
        b"[",
        b"{",
        b": ",
        b"*a",
        b"&a ",
        b"!!python/name:os.system",
        b"9" * 30,
        b"\xff",
    ),
)


def mutated(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Change a file in one to a few places."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        dice.choice(_CHANGES)(changed, others, dice)
    return bytes(changed)


def _place(data: bytearray, dice: random.Random) -> int:
    """Choose where to change something: headers matter most, but the kind should stay known."""
    first = min(_KIND, len(data)) if dice.random() < 0.9 else 0
    last = min(len(data), 128) if dice.random() < 0.4 else len(data)
    return dice.randint(first, max(first, last))


def _flip(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    place = _place(data, dice)
    if place < len(data):
        data[place] ^= 1 << dice.randrange(8)


def _overwrite(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    place = _place(data, dice)
    data[place : place + dice.randrange(1, 5)] = dice.randbytes(dice.randrange(1, 5))


def _edge(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    place, value = _place(data, dice), dice.choice(_EDGES)
    kind = dice.choice(("<I", ">I", "<H", ">H", "B", "<Q"))
    size = struct.calcsize(kind)
    data[place : place + size] = struct.pack(kind, value & (256**size - 1))


def _cut(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    del data[_place(data, dice) :]


def _remove(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    place = _place(data, dice)
    del data[place : place + dice.randrange(1, 64)]


def _repeat(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    place = _place(data, dice)
    piece = data[place : place + dice.randrange(1, 256)]
    data[place:place] = piece * dice.choice((1, 1, 2, 50))


def _swap(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    first, second = sorted((_place(data, dice), _place(data, dice)))
    size = dice.randrange(1, 64)
    here, there = data[first : first + size], data[second : second + size]
    data[second : second + size], data[first : first + size] = here, there


def _insert(data: bytearray, _: list[bytes], dice: random.Random) -> None:
    place = _place(data, dice)
    data[place:place] = dice.choice(_WORDS)


def _splice(data: bytearray, others: list[bytes], dice: random.Random) -> None:
    other = dice.choice(others)
    start = dice.randrange(len(other) + 1)
    data[_place(data, dice) :] = other[start : start + 4096]


_CHANGES: tuple[Callable[[bytearray, list[bytes], random.Random], None], ...] = (
    _flip,
    _flip,
    _overwrite,
    _edge,
    _edge,
    _cut,
    _remove,
    _repeat,
    _swap,
    _insert,
    _splice,
)


def with_checksums(data: bytes) -> bytes:
    """Make the checksums of a PNG right again, so that what lies behind them is reached."""
    if not data.startswith(b"\x89PNG"):
        return data
    fixed, place = bytearray(data), 8
    while place + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, place)
        end = place + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[place + 4 : end]))
        place = end + 4
    return bytes(fixed)


def zipped(name: str) -> Callable[[bytes], bytes]:
    """Put the bytes into an otherwise whole zip file, as torch and numpy write them."""

    def pack(data: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(name, data)
            archive.writestr("archive/version", "3\n")
            for number in range(3):
                archive.writestr(f"archive/data/{number}", bytes(16))
            archive.writestr("archive/byteorder", "little")
        return stream.getvalue()

    return pack
