"""Decoded samples kept between epochs (in memory) or runs (on disk), as raw 8-bit arrays.

All worker processes share them. On disk, a sample is one file in the user's cache folder, named by
the paths, sizes and dates of its image and mask, the label table and the decoder's version; it is
written aside, renamed, checked by checksum once per process, and made anew where it is damaged.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import multiprocessing
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from sceneparse.data.balance import cache_folder
from sceneparse.data.datasets import Pair, Sample, SegmentationDataset
from sceneparse.data.labels import IGNORE_8_BIT, Labels
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError

logger = logging.getLogger(__name__)

# Raise it when the same files decode to other arrays.
_DECODER_VERSION = 1
_HEADER = struct.Struct("<4sIIII")  # magic, height, width, bytes per label, checksum
_MAGIC = b"SPC1"


class DiskCache(SegmentationDataset):
    """A data set whose decoded samples are kept on disk and mapped into memory.

    The arrays it returns are read-only views of the file.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        super().__init__(dataset.pairs, dataset.table)
        self._folder = cache_folder() / "decoded"
        self._checked: set[Path] = set()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(_cannot_write(self._folder, error)) from error

    def __getitem__(self, index: int) -> Sample:
        path = self._folder / f"{_key(self.pairs[index], repr(self.table))}.raw"
        arrays = self._load(path)
        if arrays is None:
            image, mask, _ = super().__getitem__(index)
            _store(path, image, mask)
            arrays = image, mask
        return *arrays, self.pairs[index].name

    def _load(self, path: Path) -> tuple[NDArray[np.uint8], Labels] | None:
        """Map a file; None where it is missing or not what was written."""
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # ValueError: the file is empty
            return None
        if len(content) < _HEADER.size:
            return None
        magic, height, width, label_bytes, checksum = _HEADER.unpack_from(content)
        expected = _HEADER.size + height * width * (3 + label_bytes)
        if magic != _MAGIC or len(content) != expected:
            return None
        if path not in self._checked:
            if zlib.crc32(memoryview(content)[_HEADER.size :]) != checksum:
                return None
            self._checked.add(path)
        return _views(content, _HEADER.size, (height, width), label_bytes)


def _key(pair: Pair, table: str) -> str:
    digest = hashlib.sha256(f"{_DECODER_VERSION} {PIL.__version__} {table}".encode())
    for path in (pair.image, pair.mask):
        try:
            state = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        digest.update(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:40]


def _store(path: Path, image: NDArray[np.uint8], mask: Labels) -> None:
    content = np.ascontiguousarray(image).tobytes() + np.ascontiguousarray(mask).tobytes()
    header = _HEADER.pack(_MAGIC, *mask.shape, mask.itemsize, zlib.crc32(content))
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        aside.write_bytes(header + content)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(_cannot_write(path, error)) from error


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"cannot write the cache {path}: {error.strerror}; free some space, point XDG_CACHE_HOME "
        "elsewhere, or set data.cache: none"
    )


def _views(
    content: Any,  # noqa: ANN401 - a memory map
    offset: int,
    size: tuple[int, int],
    label_bytes: int,
) -> tuple[NDArray[np.uint8], Labels]:
    pixels = size[0] * size[1]
    kind = np.uint8 if label_bytes == 1 else np.uint16
    image = np.frombuffer(content, np.uint8, 3 * pixels, offset).reshape(*size, 3)
    mask = np.frombuffer(content, kind, pixels, offset + 3 * pixels).reshape(size)
    return image, mask


class MemoryCache(SegmentationDataset):
    """A data set whose decoded samples stay in memory that all worker processes share.

    Every sample is decoded when it is first asked for, by whichever process that is. A sample of
    another size than its header says, turned by EXIF after the pixels, is decoded each time.
    `sizes` are the images' heights and widths, where they are known already.
    """

    def __init__(
        self, dataset: SegmentationDataset, sizes: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__(dataset.pairs, dataset.table)
        if not _processes_fork():
            raise InputError(
                "data.cache: ram needs Linux, with processes that fork; set data.cache: disk"
            )
        self._label_bytes = _label_bytes(dataset)
        self._sizes = sizes or _sizes(dataset)
        # Images start at multiples of 8, so that 16-bit masks are aligned.
        lengths = [-(-h * w * (3 + self._label_bytes) // 8) * 8 for h, w in self._sizes]
        self._starts = [0, *np.cumsum(lengths).tolist()]
        _refuse_too_large(self._starts[-1])
        # Anonymous memory is inherited by forked workers and costs only what is written to it.
        self._content = mmap.mmap(-1, max(self._starts[-1], 1))
        self._ready = mmap.mmap(-1, len(self.pairs))

    def __getitem__(self, index: int) -> Sample:
        views = _views(self._content, self._starts[index], self._sizes[index], self._label_bytes)
        if not self._ready[index]:
            image, mask, name = super().__getitem__(index)
            if mask.shape != self._sizes[index]:
                return image, mask, name
            # Two processes may do so at once; both write the same.
            views[0][:], views[1][:] = image, mask
            self._ready[index] = 1
        for view in views:
            view.flags.writeable = False
        return *views, self.pairs[index].name


def _processes_fork() -> bool:
    return sys.platform == "linux" and multiprocessing.get_start_method() == "fork"


def _sizes(dataset: SegmentationDataset) -> list[tuple[int, int]]:
    return [image_size(pair.image) for pair in dataset.pairs]


def _label_bytes(dataset: SegmentationDataset) -> int:
    return 1 if dataset.table.ignore_index == IGNORE_8_BIT else 2


def _refuse_too_large(needed: int) -> None:
    free = _free_memory()
    if needed > free:
        raise InputError(
            f"data.cache: ram needs {needed / 2**30:.1f} GB, {free / 2**30:.1f} GB are free; "
            "set data.cache: disk"
        )


def _free_memory() -> int:
    """Bytes that Linux would give without swapping, no more than a container (cgroup) may have."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    limit = Path("/sys/fs/cgroup/memory.max")
    most = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return min(1024 * int(available), sys.maxsize if most == "max" else int(most))


CACHES = {"ram": MemoryCache, "disk": DiskCache}


def keep_decoded(dataset: SegmentationDataset, kind: str) -> SegmentationDataset:
    """Let a data set keep what it decodes: "none", one of CACHES, or "auto".

    "auto" is "ram" where that takes no more than an eighth of the free memory, since each of the
    machine's training processes has a memory of its own, and "none" elsewhere; it logs which.
    """
    if kind == "auto":
        return _keep_where_it_fits(dataset)
    return dataset if kind == "none" else CACHES[kind](dataset)


def _keep_where_it_fits(dataset: SegmentationDataset) -> SegmentationDataset:
    if not _processes_fork():
        logger.info("decoded images are not kept (data.cache: auto): processes do not fork here")
        return dataset
    sizes = _sizes(dataset)
    needed = sum(h * w for h, w in sizes) * (3 + _label_bytes(dataset))
    fits = needed <= _free_memory() / 8
    logger.info(
        f"decoded images are {'' if fits else 'not '}kept in memory (data.cache: auto): "
        f"{needed / 2**20:.0f} MB"
    )
    return MemoryCache(dataset, sizes) if fits else dataset
