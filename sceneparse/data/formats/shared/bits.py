"""Label Studio's run lengths of brush strokes: four channels per pixel, packed bit by bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The header: the number of values, bits per value - 1, and four lengths of runs in bits - 1.
_COUNT_BITS, _WORD_BITS, _LENGTH_BITS, _CHANNELS = 32, 5, 4, 4


def decode_alpha(packed: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Decode run lengths of red, green, blue and alpha; return where alpha is not 0: (H, W).

    After the header, each block is one bit (1: a value is repeated, 0: values follow), two bits
    that choose one of the four lengths, the number of values - 1, and the value or values. The
    format is that of @thi.ng/rle-pack. Raises ValueError if it is damaged or of another size.
    """
    bits = _Bits(packed)
    count, word = bits.read(_COUNT_BITS), bits.read(_WORD_BITS) + 1
    sizes = [bits.read(_LENGTH_BITS) + 1 for _ in range(4)]
    if count != height * width * _CHANNELS:
        raise ValueError(f"run lengths of {count} values, not {_CHANNELS} for {width}x{height}")
    drawn = np.zeros(height * width, bool)
    start = 0
    while start < count:
        is_run = bits.read(1)
        end = start + 1 + bits.read(sizes[bits.read(2)])
        if end > count:
            raise ValueError(f"run lengths of over {count} values")
        # The alpha of pixel p is value 4 p + 3.
        pixels = slice(start // _CHANNELS, end // _CHANNELS)
        if is_run:
            drawn[pixels] = bits.read(word) != 0
        else:
            values = bits.read_many(word, end - start)
            drawn[pixels] = values[(-1 - start) % _CHANNELS :: _CHANNELS]
        start = end
    return drawn.reshape(height, width)


class _Bits:
    """Reads numbers of any number of bits from bytes, the highest bit first."""

    def __init__(self, packed: bytes) -> None:
        self._packed, self._position = packed, 0

    def _advance(self, bits: int) -> tuple[int, int]:
        """Return where the next bits start and end."""
        start = self._position
        self._position += bits
        if self._position > 8 * len(self._packed):
            raise ValueError("run lengths end too early")
        return start, self._position

    def read(self, bits: int) -> int:
        """Return the next number."""
        start, end = self._advance(bits)
        number = int.from_bytes(self._packed[start // 8 : (end + 7) // 8], "big")
        return number >> -end % 8 & (1 << bits) - 1

    def read_many(self, bits: int, count: int) -> NDArray[np.bool_]:
        """Return which of the next `count` numbers are not 0."""
        start, end = self._advance(bits * count)
        packed = np.frombuffer(self._packed[start // 8 : (end + 7) // 8], np.uint8)
        found = np.unpackbits(packed)[start % 8 : start % 8 + bits * count]
        return np.asarray(found.reshape(count, bits).any(axis=1))
