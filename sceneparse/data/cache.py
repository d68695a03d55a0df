"""Keep decoded samples between epochs (in memory) or between runs (on disk).

All worker processes share them. On disk, a sample is one .npy file in the user's cache folder.
"""

import hashlib
import io
import logging
import mmap
import os
import sys
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil
from numpy.typing import NDArray

from sceneparse.data.datasets import Sample, SegmentationDataset
from sceneparse.errors import InputError, reason_of, refusing

logger = logging.getLogger(__name__)

# Increase it if the same files decode to other arrays.
_DECODER_VERSION = 2


def cache_folder() -> Path:
    """Return the folder of our caches, below XDG_CACHE_HOME or where the system keeps caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _usual_caches()) / "sceneparse"


def _usual_caches() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"  # backups skip it
    else:
        return Path.home() / ".cache"


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file aside and rename it, so that nobody reads half; OSError leaves none."""
    # Through memory: if the disk is full, numpy's own error does not say so.
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content.getbuffer())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        # Windows replaces no file that another worker has mapped, which holds the same sample.
        if sys.platform != "win32" or not path.exists():
            raise


def fingerprint(files: Iterable[Path], *settings: object) -> str:
    """Hash settings, the decoder's version, and the paths, sizes and dates of files.

    Raises InputError for a file that cannot be read.
    """
    digest = hashlib.sha256(repr((_DECODER_VERSION, *settings)).encode())
    for path in files:
        with refusing(path, "cannot be read"):
            state = path.stat()
        digest.update(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:40]


def resize_settings(dataset: SegmentationDataset) -> tuple[object, ...]:
    """Return what a fingerprint needs of the resizing: nothing without, so that old names hold."""
    return () if dataset.resize is None else (dataset.resize,)


def _fields(labels: np.dtype[Any], size: tuple[int, ...]) -> list[Any]:
    """Return the fields of a stored sample. The mask comes first, so that 16 bits are aligned."""
    return [("mask", labels, size), ("image", "u1", (*size, 3))]


class DiskCache(SegmentationDataset):
    """A dataset whose decoded samples are kept on disk and mapped into memory.

    The checksum of a file is compared once per process, and a damaged file is replaced. The name
    depends on the paths, sizes and dates of image and mask, on the label table and on the decoder's
    version. The arrays are read-only.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        super().__init__(dataset.pairs, dataset.table, dataset.bit_depth, dataset.resize)
        self._folder = cache_folder() / "decoded"
        self._checked: set[Path] = set()
        with _explained_write(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        settings = PIL.__version__, self.table, self.bit_depth, *resize_settings(self)
        path = self._folder / f"{fingerprint((pair.image, pair.mask), *settings)}.npy"
        record = self._load(path)
        if record is not None:
            return record["image"], record["mask"], pair.name
        image, mask, _ = super().__getitem__(index)
        record = np.empty((), [("checksum", "<u4"), *_fields(mask.dtype, mask.shape)])
        record["image"], record["mask"] = image, mask
        record["checksum"] = _checksum(record)
        with _explained_write(path):
            save_array(path, record)
        return image, mask, pair.name

    def _load(self, path: Path) -> NDArray[Any] | None:
        """Map a file into memory; return None if it is missing or damaged."""
        with suppress(InputError), refusing(path, "damaged"):
            record = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            if path in self._checked or record["checksum"] == _checksum(record):
                self._checked.add(path)
                return record
        return None


def _checksum(record: NDArray[Any]) -> int:
    return zlib.crc32(record["image"].data, zlib.crc32(record["mask"].data))


@contextmanager
def _explained_write(path: Path) -> Iterator[None]:
    """Turn a failure to write into InputError with the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write the cache {path}: {reason_of(error)}; free some space, point "
            "XDG_CACHE_HOME elsewhere, or set data.cache: none"
        ) from error


class MemoryCache(SegmentationDataset):
    """A dataset whose decoded samples stay in memory that all worker processes share.

    A sample is decoded when a process first needs it. If EXIF data at the end of a file rotate the
    image, the size in its header is wrong; such an image is decoded each time.
    `sizes` are the images' heights and widths, if they are already known.
    """

    def __init__(
        self, dataset: SegmentationDataset, sizes: list[tuple[int, int]] | None = None
    ) -> None:
        super().__init__(dataset.pairs, dataset.table, dataset.bit_depth, dataset.resize)
        if not _on_linux():
            raise InputError("data.cache: ram needs Linux; set data.cache: disk")
        self._sizes = sizes or dataset.sizes(range(len(dataset)))
        pixel_bytes = 3 + dataset.table.dtype.itemsize
        # Samples start at multiples of 8, so that 16-bit masks are aligned.
        lengths = [-(-h * w * pixel_bytes // 8) * 8 for h, w in self._sizes]
        self._starts = [0, *np.cumsum(lengths).tolist()]
        needed, free = self._starts[-1], free_memory()
        if needed > free:
            raise InputError(
                f"data.cache: ram needs {needed / 2**30:.1f} GB, {free / 2**30:.1f} GB are free; "
                "set data.cache: disk"
            )
        self._content = _SharedMemory(needed)
        self._ready = _SharedMemory(len(self.pairs))

    def __getitem__(self, index: int) -> Sample:
        fields = _fields(self.table.dtype, self._sizes[index])
        record = np.ndarray((), fields, self._content.map, self._starts[index])
        if not self._ready.map[index]:
            image, mask, name = super().__getitem__(index)
            if mask.shape != self._sizes[index]:
                return image, mask, name
            # Two processes may write at once; both write the same.
            record["image"], record["mask"] = image, mask
            self._ready.map[index] = 1
        record.flags.writeable = False
        return record["image"], record["mask"], self.pairs[index].name


def _on_linux() -> bool:
    return sys.platform == "linux"


class _SharedMemory:
    """Zeroed memory that worker processes share however they start; only written pages cost any.

    It is a file without a name, since /dev/shm is small in containers. It can only be pickled for a
    process that is being started.
    """

    def __init__(self, size: int) -> None:
        if sys.platform == "linux":
            file = os.memfd_create("sceneparse")
            os.ftruncate(file, max(size, 1))
            self._open(file)

    def __getstate__(self) -> Any:  # noqa: ANN401 - private to multiprocessing
        if sys.platform == "linux":
            return reduction.DupFd(self._file)
        raise AssertionError("only made on Linux")

    def __setstate__(self, file: Any) -> None:  # noqa: ANN401
        self._open(file.detach())

    def _open(self, file: int) -> None:
        self._file, self.map = file, mmap.mmap(file, 0)
        weakref.finalize(self, os.close, file)


def free_memory() -> int:
    """Return the bytes that are free without swapping, within the container's (cgroup) limit."""
    available: int = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    maximum = limit.read_text(encoding="ascii").strip() if limit.exists() else "max"
    return available if maximum == "max" else min(available, int(maximum))


def _keep_if_it_fits(dataset: SegmentationDataset) -> SegmentationDataset:
    """Keep samples in memory if that takes at most an eighth of the free memory.

    Not more, because each training process of the machine keeps its own copy.
    """
    if not _on_linux():
        logger.info("decoded images are not kept in memory (data.cache: auto): that needs Linux")
        return dataset
    sizes = dataset.sizes(range(len(dataset)))
    needed = sum(h * w for h, w in sizes) * (3 + dataset.table.dtype.itemsize)
    fits = needed <= free_memory() / 8
    logger.info(
        f"decoded images are {'' if fits else 'not '}kept in memory (data.cache: auto): "
        f"{needed / 2**20:.0f} MB"
    )
    return MemoryCache(dataset, sizes) if fits else dataset


CACHES: dict[str, Callable[[SegmentationDataset], SegmentationDataset]] = {
    "none": lambda dataset: dataset,
    "auto": _keep_if_it_fits,
    "ram": MemoryCache,
    "disk": DiskCache,
}
