"""Keep decoded samples between epochs (in memory) or between runs (on disk).

All worker processes share them. On disk, a sample is one .npy file in the user's cache folder. Its
name depends on the paths, sizes and dates of image and mask, on the label table and on the
decoder's version.
"""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
import multiprocessing
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from sceneparse.data.datasets import Pair, Sample, SegmentationDataset
from sceneparse.data.labels import IGNORE_8_BIT, Labels
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError, reason_of, refusing

logger = logging.getLogger(__name__)

# Raise it when the same files decode to other arrays.
_DECODER_VERSION = 1


def cache_folder() -> Path:
    """Return the folder of the user's caches, below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sceneparse"


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file aside and rename it, so that a reader sees all or nothing of it.

    Raises OSError and leaves nothing behind if it cannot be written.
    """
    # Through memory: if the disk is full, numpy's own error does not say so.
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        aside.write_bytes(content.getbuffer())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


class DiskCache(SegmentationDataset):
    """A dataset whose decoded samples are kept on disk and mapped into memory.

    A file is written aside and renamed, so that several processes may write it at once. Its
    checksum is compared once per process; a damaged file is replaced. The arrays are read-only.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        super().__init__(dataset.pairs, dataset.table)
        self._folder = cache_folder() / "decoded"
        self._checked: set[Path] = set()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self._folder, error) from error

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        path = self._folder / f"{_key(pair, repr(self.table))}.npy"
        arrays = self._load(path)
        if arrays is None:
            image, mask, _ = super().__getitem__(index)
            _store(path, image, mask)
            arrays = image, mask
        return *arrays, pair.name

    def _load(self, path: Path) -> tuple[NDArray[np.uint8], Labels] | None:
        """Map a file into memory; return None if it is missing or damaged."""
        try:
            with refusing(path, "damaged"):
                record = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
                image, mask = record["image"], record["mask"]
                if path not in self._checked and record["checksum"] != _checksum(image, mask):
                    return None
        except InputError:
            return None
        self._checked.add(path)
        return image, mask


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
    # The mask comes before the image, so that labels of 16 bits are aligned.
    parts = [("checksum", "<u4"), ("mask", mask.dtype, mask.shape), ("image", "u1", image.shape)]
    record = np.empty((), parts)
    record["checksum"], record["mask"], record["image"] = _checksum(image, mask), mask, image
    try:
        save_array(path, record)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _checksum(image: NDArray[np.uint8], mask: Labels) -> int:
    seed = zlib.crc32(np.ascontiguousarray(mask).data)
    return zlib.crc32(np.ascontiguousarray(image).data, seed)


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write the cache {path}: {reason_of(error)}; free some space, point "
        "XDG_CACHE_HOME elsewhere, or set data.cache: none"
    )


class MemoryCache(SegmentationDataset):
    """A dataset whose decoded samples stay in memory that all worker processes share.

    A sample is decoded when a process first needs it. If EXIF data after the pixels turn an image,
    its size is not what its header says; it is then decoded each time.
    `sizes` are the images' heights and widths, if they are already known.
    """

    def __init__(
        self, dataset: SegmentationDataset, sizes: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__(dataset.pairs, dataset.table)
        if not _processes_fork():
            raise InputError(
                "data.cache: ram needs Linux and processes that fork; set data.cache: disk"
            )
        self._label_bytes = _label_bytes(dataset)
        self._sizes = sizes or _sizes(dataset)
        # Images start at multiples of 8, so that 16-bit masks are aligned.
        lengths = [-(-h * w * (3 + self._label_bytes) // 8) * 8 for h, w in self._sizes]
        self._starts = [0, *np.cumsum(lengths).tolist()]
        _require_free_memory(self._starts[-1])
        # Forked workers inherit anonymous memory, and only pages that are written cost memory.
        self._content = mmap.mmap(-1, max(self._starts[-1], 1))
        self._ready = mmap.mmap(-1, len(self.pairs))

    def __getitem__(self, index: int) -> Sample:
        views = _views(self._content, self._starts[index], self._sizes[index], self._label_bytes)
        if not self._ready[index]:
            image, mask, name = super().__getitem__(index)
            if mask.shape != self._sizes[index]:
                return image, mask, name
            # Two processes may write at once; both write the same.
            views[0][:], views[1][:] = image, mask
            self._ready[index] = 1
        for view in views:
            view.flags.writeable = False
        return *views, self.pairs[index].name


def _views(
    content: mmap.mmap, offset: int, size: tuple[int, int], label_bytes: int
) -> tuple[NDArray[np.uint8], Labels]:
    """View image (H, W, 3) and mask (H, W) in a piece of memory."""
    pixels = size[0] * size[1]
    kind = np.uint8 if label_bytes == 1 else np.uint16
    image = np.frombuffer(content, np.uint8, 3 * pixels, offset).reshape(*size, 3)
    mask = np.frombuffer(content, kind, pixels, offset + 3 * pixels).reshape(size)
    return image, mask


def _processes_fork() -> bool:
    return sys.platform == "linux" and multiprocessing.get_start_method() == "fork"


def _sizes(dataset: SegmentationDataset) -> list[tuple[int, int]]:
    return [image_size(pair.image) for pair in dataset.pairs]


def _label_bytes(dataset: SegmentationDataset) -> int:
    return 1 if dataset.table.ignore_index == IGNORE_8_BIT else 2


def _require_free_memory(needed: int) -> None:
    free = _free_memory()
    if needed > free:
        raise InputError(
            f"data.cache: ram needs {needed / 2**30:.1f} GB, {free / 2**30:.1f} GB are free; "
            "set data.cache: disk"
        )


def _free_memory() -> int:
    """Return the bytes that are free without swapping, within the container's (cgroup) limit."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    limit = Path("/sys/fs/cgroup/memory.max")
    maximum = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return min(1024 * int(available), sys.maxsize if maximum == "max" else int(maximum))


def _keep_if_it_fits(dataset: SegmentationDataset) -> SegmentationDataset:
    """Keep samples in memory if that takes at most an eighth of the free memory.

    Not more, because each training process of the machine keeps its own copy.
    """
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


def keep_decoded(dataset: SegmentationDataset, kind: str) -> SegmentationDataset:
    """Return a dataset that keeps decoded samples as `kind`, a name of CACHES, says."""
    return CACHES[kind](dataset)


CACHES: dict[str, Callable[[SegmentationDataset], SegmentationDataset]] = {
    "none": lambda dataset: dataset,
    "auto": _keep_if_it_fits,
    "ram": MemoryCache,
    "disk": DiskCache,
}
