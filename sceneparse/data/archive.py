"""Downloaded archives unpacked: files and folders only, below one folder, of bounded size."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from sceneparse.errors import refusing

# Gzip packs zeros a thousandfold; pictures hardly shrink at all.
_LARGEST_RATIO = 20
_ALWAYS_ALLOWED, _LARGEST = 2**20, 2**33
_MOST_FILES = 1_000_000


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz into a folder.

    Raises InputError for anything but files and folders, for names that lead out of the folder,
    and where it would unpack to far more than such archives do; then nothing more is written.
    """
    packed = archive.stat().st_size
    largest = min(max(packed * _LARGEST_RATIO, _ALWAYS_ALLOWED), _LARGEST)
    with refusing(archive, "cannot be unpacked"), gzip.open(archive) as stream:
        bounded = _Bounded(stream, largest)
        with tarfile.open(fileobj=bounded, mode="r|") as members:
            for number, member in enumerate(members):
                if not (member.isreg() or member.isdir()) or number == _MOST_FILES:
                    raise ValueError(f"'{member.name}' is no file of a data set")
                # The filter refuses what leads out, and takes off owners and rights.
                members.extract(member, folder, filter="data")


class _Bounded(io.RawIOBase):
    """Reads a stream, at most so many bytes."""

    def __init__(self, stream: io.BufferedIOBase, largest: int) -> None:
        self._stream, self._left = stream, largest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            raise ValueError("it would unpack to far more than archives of data sets do")
        content = self._stream.read(size)
        self._left -= len(content)
        return content
