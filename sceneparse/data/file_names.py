"""Names of files that every system can store: what Windows refuses is encoded, as in URLs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from sceneparse.errors import InputError, first_few
from sceneparse.files import exists

# On NTFS, writing "a:b.png" succeeds and loses the content: it becomes a hidden stream of "a".
_REFUSED = re.compile(r'[\x00-\x1f<>:"|?*\\]')
# Names of devices, also before a dot: "con.png" is one.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9\u00b9\u00b2\u00b3]) *(\.|$)", re.IGNORECASE
)
# Bytes of UTF-8 on Linux and macOS, characters on Windows.
_MAX_LENGTH = 255


def storable(name: str) -> str:
    """Return a path with slashes as every system can store it: "a:b/con.png" as "a%3Ab/%63on.png".

    Encoded are signs that Windows refuses, a dot or blank at the end of a file or folder, and the
    first letter of a device's name. All other names stay as they are, on every system.
    """
    return "/".join(map(_storable_part, name.split("/")))


def storable_stem(name: str) -> str:
    """Do the same for a name that a suffix will follow: a dot at its end may stay."""
    return storable(f"{name}.png").removesuffix(".png")


def _storable_part(part: str) -> str:
    part = _REFUSED.sub(lambda sign: _encoded(sign[0]), part)
    if part[-1:] in {".", " "} and part not in {".", ".."}:
        part = part[:-1] + _encoded(part[-1])
    return _encoded(part[0]) + part[1:] if _DEVICE.match(part) else part


def _encoded(sign: str) -> str:
    return f"%{ord(sign):02X}"


def require_storable(name: str, what: str) -> None:
    """Raise InputError for a name that Windows refuses; `what` has the name."""
    if storable(name) != name:
        raise InputError(
            f"{what} '{name}' names a folder, and Windows refuses it; choose another name, without "
            'any of <>:"|?*\\, without a dot or blank at the end, and none of CON, PRN, AUX, NUL, '
            "COM1, LPT1"
        )


def describe_encoded(names: Iterable[str]) -> str:
    """Return a note about the names that `storable` changes; empty if there are none."""
    changed = [f"{name} as {storable(name)}" for name in names if storable(name) != name]
    start = f"{len(changed)} names that Windows refuses are written encoded: "
    return start + first_few(changed, 3) if changed else ""


def require_own_files(files: Iterable[tuple[str, object]], folder: Path) -> None:
    """Raise InputError if two results would be one file, or if a name is too long.

    `files`: the path of each result below `folder`, with slashes, and what it is the result of.
    """
    key = key_of_names(folder)
    seen: dict[str, tuple[str, object]] = {}
    for name, source in files:
        stored = storable(name)
        other, first = seen.setdefault(key(stored), (stored, source))
        if first != source:
            raise InputError(
                f"the results of '{first}' and '{source}' would both be written to "
                f"'{folder / other}'; rename one of them"
            )
        longest = max(stored.split("/"), key=_length)
        if _length(longest) > _MAX_LENGTH:
            raise InputError(
                f"the result of '{source}' would have a name of {_length(longest)} bytes, "
                f"{_MAX_LENGTH} are allowed: '{longest}'; rename it"
            )


def _length(part: str) -> int:
    return len(part) if sys.platform == "win32" else len(os.fsencode(part))


def key_of_names(folder: Path) -> Callable[[str], str]:
    """Return the function that gives equal texts for two names of one file: str.casefold or str.

    For Windows and macOS, A.png and a.png are one file; for Linux only on some disks, such as
    memory cards. Nothing is written to find out: the folder, or one above it, is looked up with
    capitals and small letters exchanged.
    """
    path = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
    for known in (path, *path.parents):
        other = known.parent / known.name.swapcase()
        if other.name != known.name and known.name.isascii() and exists(known):
            return str.casefold if exists(other) and other.samefile(known) else str
    return str.casefold if sys.platform in {"win32", "darwin"} else str
