"""Files and folders that are whole or absent, whatever happens: written aside, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# What file systems answer that cannot sync a folder, or have no links.
_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM}


def write_synced(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, and return when the disk has it."""
    write(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Give a file this text; at any moment it holds the old text or the new one."""
    aside = path.with_name(f".{path.name}.aside")
    write_synced(aside, lambda file: file.write_text(text, encoding="utf-8"))
    aside.replace(path)
    sync_folder(path.parent)


def replace_folder(aside: Path, folder: Path) -> Path:
    """Let the folder `aside` become `folder`; return the name that an older one has from now on.

    Folders cannot be exchanged, so that for an instant only the older one is there, renamed.
    """
    older = folder.with_name(f"{folder.name}.replaced")
    sync_folder(aside)
    if folder.exists():
        remove_folder(older)
        folder.rename(older)
    aside.rename(folder)
    sync_folder(folder.parent)
    return older


def remove_folder(folder: Path) -> None:
    """Remove a folder where it is there; what a crash leaves of it has a hidden name."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}")
        folder.rename(hidden)
        shutil.rmtree(hidden)


def replace_link(link: Path, target: Path) -> None:
    """Make a link beside or above `target` lead to it; file systems without links do without."""
    aside = link.with_name(f".{link.name}.aside")
    aside.unlink(missing_ok=True)
    try:
        aside.symlink_to(target.relative_to(link.parent), target_is_directory=True)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return
    aside.replace(link)


def sync_folder(path: Path) -> None:
    """Return when the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
