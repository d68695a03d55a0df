"""Files that others made, read whole: text, JSON and arrays, of bounded size, or InputError."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.errors import InputError, refusing

# A list of a million images, the annotations of a large data set.
LARGEST_TEXT = 2**30
# The names and colours of thousands of classes.
LARGEST_DESCRIPTION = 2**24
# Counts of 150 classes in 100,000 images.
_LARGEST_ARRAYS = 2**29


def read_bytes(path: Path, largest: int) -> bytes:
    """Read a file; raises InputError naming it, also where it is larger than its kind can be."""
    with refusing(path, "cannot be read"), path.open("rb") as file:
        # A device or pipe may have no end.
        content = file.read(largest + 1)
    if len(content) > largest:
        raise InputError(f"{path}: larger than {largest:,} bytes, which none of its kind is")
    return content


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """Read UTF-8 text, with or without a byte order mark; raises InputError naming the file."""
    content = read_bytes(path, largest)
    with refusing(path, "not UTF-8 text"):
        return content.decode("utf-8-sig")


def read_json(path: Path, largest: int = LARGEST_TEXT) -> Any:  # noqa: ANN401 - holds anything
    """Read a JSON file; raises InputError naming it."""
    text = read_text(path, largest)
    with refusing(path, "cannot be read as JSON"):
        return json.loads(text)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an .npz file; raises InputError naming it."""
    with refusing(path, "damaged or no arrays"):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _LARGEST_ARRAYS:
            raise InputError(f"{path}: refused, it would unpack to {unpacked:,} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def inside(folder: Path, name: str, source: object, *, root: Path | None = None) -> Path:
    """Find what a name in a file stands for, relative to `folder`.

    Raises InputError where it leads out of `root`, by default `folder`. Links are followed wherever
    they lead: whoever put them into the folder allowed it.
    """
    root = folder if root is None else root
    path = Path(os.path.abspath(folder / name))  # noqa: PTH100 - resolve() would follow links
    top = os.path.abspath(root)  # noqa: PTH100
    if not path.is_relative_to(top):
        raise InputError(f"{source}: '{name}' lies outside the data folder {root}")
    return root / path.relative_to(top)


def is_file(path: Path) -> bool:
    """Whether a file is there; what cannot even be asked for (a name too long) is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
