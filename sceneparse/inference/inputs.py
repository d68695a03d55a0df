"""Find the files to predict (files, folders, globs), name their results, read them in batches."""

import glob
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from unicodedata import normalize

from sceneparse.data.file_names import key_of_names
from sceneparse.data.pairing import IMAGE_SUFFIXES, describe_skipped, find_images, is_hidden
from sceneparse.data.reading import image_size, read_image
from sceneparse.errors import InputError, refusing
from sceneparse.report.pictures import Picture

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}
_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_MAX_IMAGES_AHEAD = 32


@dataclass(frozen=True)
class Source:
    """A file to predict, and the name (with folders, without suffix) of its results."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the file is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(
    inputs: Iterable[str],
    skip: Callable[[Path], bool] = lambda _: False,
    output: Path | None = None,
) -> list[Source]:
    """Find the files that files, folders (searched recursively) and globs name.

    Folders and globs give images and videos by their suffix; a file is taken whatever its suffix.
    Files for which `skip` is true are left out. `output`: the folder of the results; where it does
    not tell A from a, no two names differ by that alone. Raises InputError for an input without any
    image or video.
    """
    found: dict[Path, Path] = {}  # file -> its name below the folder that was given
    for text in inputs:
        with refusing(f"'{text}'", "cannot be found"):
            named = _find(text, skip)
        # A folder may hold skipped files that are no pictures.
        if not named and not [path for path in Path(text).rglob("*") if skip(path)]:
            raise InputError(f"'{text}' holds no images ({', '.join(sorted(_SUFFIXES))})")
        found.update({path: name for path, name in named.items() if not skip(path)})
    return _with_unique_names(found, key_of_names(output or Path()))


def _find(text: str, skip: Callable[[Path], bool]) -> dict[Path, Path]:
    path = Path(text)
    if path.is_dir():
        below, skipped = find_images(path, _SUFFIXES, uncounted=skip)
        if skipped:
            logger.info(f"{path}: skipped {describe_skipped(skipped)}")
        return {file: file.relative_to(path) for file in below}
    if path.exists() or not glob.has_magic(text):
        return {path: Path(path.name)}
    # Path.glob takes no absolute patterns.
    files = map(Path, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
    return {f: Path(f.name) for f in files if _is_picture(f)}


def _is_picture(path: Path) -> bool:
    known = path.suffix.lower() in _SUFFIXES
    return known and not is_hidden(path.name) and path.is_file()


def _with_unique_names(found: dict[Path, Path], key: Callable[[str], str]) -> list[Source]:
    """Name sources by their stems; equal names get the suffix too, then the whole path.

    Names are equal if `key` is.
    """
    # Results are written under these names, so none may contain "..".
    whole = {path: whole_name(Path(os.path.abspath(path))) for path in found}  # noqa: PTH100
    named = {path: below.as_posix() for path, below in found.items()}
    names = {p: normalize("NFC", below.with_suffix("").as_posix()) for p, below in found.items()}
    for longer in (named, whole):
        count = Counter(map(key, names.values()))
        names = {p: longer[p] if count[key(name)] > 1 else name for p, name in names.items()}
    return [Source(path, name) for path, name in names.items()]


def whole_name(path: PurePath) -> str:
    """Return an absolute path as a name below any folder, which begins with the drive if any."""
    top = filter(None, re.split(r"[\\/:?]+", path.anchor))
    return "/".join([*top, *path.parts[1:]])


def equal_size_batches(
    sources: Sequence[Source],
    images_at_once: Callable[[int, int], int],
    failed: Callable[[Source, InputError], None],
    bit_depth: int | None = None,
) -> Iterator[list[tuple[Source, Picture]]]:
    """Read images (H, W, 3) in batches of equal size.

    `images_at_once` gives the batch size for a height and width. `failed` is called for each image
    that cannot be read. `bit_depth`: the bits that 16-bit images use, see read_image.
    """
    by_size: dict[tuple[int, int], list[Source]] = {}
    for source in sources:
        try:
            by_size.setdefault(image_size(source.path), []).append(source)
        except InputError as error:
            failed(source, error)
    for (height, width), group in by_size.items():
        at_once = images_at_once(height, width)
        batch: list[tuple[Source, Picture]] = []
        for source, image in _read_ahead(group, min(at_once, _MAX_IMAGES_AHEAD), bit_depth):
            if isinstance(image, InputError):
                failed(source, image)
                continue
            # The size in a header can differ from that of the decoded, upright image.
            if batch and (len(batch) == at_once or image.shape != batch[0][1].shape):
                yield batch
                batch = []
            batch.append((source, image))
        if batch:
            yield batch


def _read_ahead(
    sources: Iterable[Source], ahead: int, bit_depth: int | None
) -> Iterator[tuple[Source, Picture | InputError]]:
    """Decode in two threads, at most `ahead` images before they are used; yield in order."""
    waiting: deque[Future[tuple[Source, Picture | InputError]]] = deque()
    with ThreadPoolExecutor(2) as pool:
        for source in sources:
            waiting.append(pool.submit(_read, source, bit_depth))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        # Each is taken out before it is passed on, so that its memory can be freed.
        while waiting:
            yield waiting.popleft().result()


def _read(source: Source, bit_depth: int | None) -> tuple[Source, Picture | InputError]:
    try:
        return source, read_image(source.path, bit_depth)
    except InputError as error:
        return source, error
