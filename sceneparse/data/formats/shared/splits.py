"""The splits that names of files and folders stand for."""

from __future__ import annotations

import re
from pathlib import Path

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("trainval",), "trainval"),
}


def split_named(text: str) -> str | None:
    """Return the split that a word of a name stands for: "instances_val2017" is val."""
    words = re.findall(r"[a-z]+", text.lower())
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), None)


def split_in(path: Path, root: Path) -> str | None:
    """Return the split in the name of a file, or of the nearest folder below `root`."""
    below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    names = [below.stem, *(folder.name for folder in below.parents)]
    return next((split for name in names if (split := split_named(name))), None)
