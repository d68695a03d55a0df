"""What there is to predict: files, folders and globs, each with a name for its results."""

from __future__ import annotations

import glob
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sceneparse.data.datasets import IMAGE_SUFFIXES
from sceneparse.data.reading import image_size, read_image
from sceneparse.errors import InputError, refusing
from sceneparse.report.pictures import Picture

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}

_MOST_AHEAD = 32


@dataclass(frozen=True)
class Source:
    """A file to predict, and the name (with folders, without suffix) its results go by."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it holds frames rather than one image."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(words: Iterable[str]) -> list[Source]:
    """Find what files, folders (with all below) and globs stand for.

    Folders and globs give images and videos by their suffix; a file named itself is taken as it
    is. Raises InputError for a word that stands for nothing.
    """
    found: dict[Path, Path] = {}  # file -> its name below the folder that was given
    for word in words:
        with refusing(f"'{word}'", "cannot be found"):
            named = _named(word)
        if not named:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
            raise InputError(f"'{word}' holds no images ({kinds})")
        found.update(named)
    return _named_apart(found)


def _named(word: str) -> dict[Path, Path]:
    path = Path(word)
    if path.is_dir():
        return {f: f.relative_to(path) for f in sorted(path.rglob("*")) if _is_picture(f)}
    if path.exists() or not glob.has_magic(word):
        return {path: Path(path.name)}
    # Path.glob takes no absolute patterns.
    files = map(Path, sorted(glob.glob(word, recursive=True)))  # noqa: PTH207
    return {f: Path(f.name) for f in files if _is_picture(f)}


def _is_picture(path: Path) -> bool:
    known = path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    return known and not path.name.startswith(".") and path.is_file()


def _named_apart(found: dict[Path, Path]) -> list[Source]:
    """Name sources by their stems; where two would be the same, by whole file names, then paths."""
    ways: list[Callable[[Path], Path]] = [
        lambda path: found[path].with_suffix(""),
        lambda path: found[path],
        # Results are written under these names, so that none may hold "..".
        lambda path: Path(*Path(os.path.abspath(path)).parts[1:]),  # noqa: PTH100
    ]
    names = {path: ways[0](path) for path in found}
    for way in ways[1:]:
        count = Counter(names.values())
        names = {path: way(path) if count[name] > 1 else name for path, name in names.items()}
    return [Source(path, name.as_posix()) for path, name in names.items()]


def equal_size_batches(
    sources: Sequence[Source],
    images_at_once: Callable[[int, int], int],
    failed: Callable[[Source, InputError], None],
) -> Iterator[list[tuple[Source, Picture]]]:
    """Read images, those of equal size together, as many as `images_at_once` says of a size.

    `failed` is told of each that cannot be read.
    """
    for (height, width), group in _by_size(sources, failed).items():
        at_once = images_at_once(height, width)
        batch: list[tuple[Source, Picture]] = []
        for source, image in _read_ahead(group, ahead=min(at_once, _MOST_AHEAD)):
            if isinstance(image, InputError):
                failed(source, image)
                continue
            # A header need not tell the truth about turning.
            if batch and (len(batch) == at_once or image.shape != batch[0][1].shape):
                yield batch
                batch = []
            batch.append((source, image))
        if batch:
            yield batch


def _by_size(
    sources: Sequence[Source], failed: Callable[[Source, InputError], None]
) -> dict[tuple[int, int], list[Source]]:
    """Group images by their headers alone."""
    groups: dict[tuple[int, int], list[Source]] = {}
    for source in sources:
        try:
            groups.setdefault(image_size(source.path), []).append(source)
        except InputError as error:
            failed(source, error)
    return groups


def _read_ahead(
    sources: Iterable[Source], ahead: int
) -> Iterator[tuple[Source, Picture | InputError]]:
    """Decode in threads, at most `ahead` images before they are wanted; yields in order."""
    waiting: deque[tuple[Source, Future[Picture | InputError]]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for source in sources:
            waiting.append((source, pool.submit(_read, source.path)))
            if len(waiting) > ahead:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _read(path: Path) -> Picture | InputError:
    try:
        return read_image(path)
    except InputError as error:
        return error
