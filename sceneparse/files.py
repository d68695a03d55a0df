"""Reading of files that others made: text, JSON and arrays of limited size, or InputError."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from sceneparse.errors import InputError, refusing

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Limits in bytes.
MAX_TEXT = 2**30  # a list of a million images, the annotations of a large dataset
MAX_DESCRIPTION = 2**24  # the names and colours of thousands of classes
MAX_ARRAYS = 2**29  # counts of 150 classes in 100,000 images
# Files that macOS, Windows and KDE put into folders that somebody looks at; in lower case.
SYSTEM_FILES = {
    *(".ds_store", ".localized"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
    ".directory",
}


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes; raises InputError."""
    with refusing(path, "cannot be read"), path.open("rb") as file:
        # Python sets aside what is asked for, so the limit is only asked of a device or pipe, whose
        # size is not known and which may have no end.
        size = min(os.fstat(file.fileno()).st_size, limit)
        content = file.read(size + 1)
        if len(content) > size:
            content += file.read(limit - size)
    if len(content) > limit:
        raise InputError(f"{path}: larger than {limit:,} bytes, the limit for such a file")
    return content


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Read UTF-8 text, or UTF-16 text that begins with a byte order mark; raises InputError."""
    content = read_bytes(path, limit)
    with refusing(path, "not UTF-8 text (save it as UTF-8)"):
        return content.decode(_encoding_of(content))


def read_start(path: Path, size: int) -> str:
    """Read the first bytes of a file as text, whatever they are; raises InputError."""
    with refusing(path, "cannot be read"), path.open("rb") as file:
        content = file.read(size)
    return content.decode(_encoding_of(content), errors="replace")


def _encoding_of(content: bytes) -> str:
    """Return UTF-8, or UTF-16 as PowerShell writes it; marks of the byte order are dropped."""
    has_mark = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if has_mark else "utf-8-sig"


def read_json(path: Path, limit: int = MAX_TEXT) -> Any:  # noqa: ANN401 - JSON holds anything
    """Read a JSON file; raises InputError."""
    text = read_text(path, limit)
    with refusing(path, "cannot be read as JSON"):
        return json.loads(text)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an .npz file; raises InputError."""
    import numpy as np  # noqa: PLC0415 - the help of commands must not wait for it

    with refusing(path, "damaged or no arrays"):
        check_unpacked_size(path, MAX_ARRAYS)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def check_unpacked_size(path: Path, limit: int) -> None:
    """Raise InputError if a zip archive would unpack to more than `limit` bytes."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > limit:
        raise InputError(f"{path}: refused, it would unpack to {unpacked:,} bytes")


def inside(folder: Path, name: str, source: object) -> Path:
    """Return the path of a name that a file gives relative to `folder`.

    Backslashes separate folders, as on Windows. Raises InputError if it lies outside the folder.
    Links may lead anywhere: the owner of the folder put them there.
    """
    if sys.platform != "win32" and re.match(r"[A-Za-z]:[/\\]|\\\\", name):
        raise InputError(
            f"{source}: '{name}' is a path of a Windows computer; write it relative to {folder}"
        )
    name = name.replace("\\", "/")
    path = Path(os.path.abspath(folder / name))  # noqa: PTH100 - resolve() would follow links
    top = os.path.abspath(folder)  # noqa: PTH100
    if not path.is_relative_to(top):
        raise InputError(f"{source}: '{name}' lies outside the data folder {folder}")
    return _as_stored(folder / path.relative_to(top))


def _as_stored(path: Path) -> Path:
    """Return the path in the Unicode form of the files: macOS stores "ü" as two characters."""
    if str(path).isascii() or exists(path):
        return path
    stored = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        forms = [stored / form for form in (part, normalize("NFC", part), normalize("NFD", part))]
        stored = next(filter(exists, forms), stored / part)
    return stored


def exists(path: Path) -> bool:
    """Return whether a path exists; a name that the system rejects (too long) does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a file exists; a name that the system rejects (too long) does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def files_of_users(folder: Path) -> list[Path]:
    """Return what a folder holds, except files that systems put there by themselves."""
    return [
        path
        for path in folder.iterdir()
        if path.name.lower() not in SYSTEM_FILES and not path.name.startswith("._")
    ]


def remove_empty_folder(folder: Path) -> None:
    """Remove a folder that holds at most files that systems put there; otherwise raise OSError."""
    if not files_of_users(folder):
        for path in folder.iterdir():
            path.unlink()
    folder.rmdir()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
