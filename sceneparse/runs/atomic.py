"""Write files and folders under another name, sync and rename them: complete or absent."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# The errors of file systems that cannot sync a folder, or have no links.
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM}


def write_synced(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(path)` to create a file, then sync it to disk."""
    write(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Replace the text of a file; at any moment it holds the old text or the new one."""
    aside = path.with_name(f".{path.name}.aside")
    write_synced(aside, lambda file: file.write_text(text, encoding="utf-8"))
    aside.replace(path)
    sync_folder(path.parent)


def replace_folder(aside: Path, folder: Path) -> Path:
    """Rename the folder `aside` to `folder`; return the new name of an older `folder`.

    Two folders cannot be exchanged at once: for an instant only the older one exists, renamed.
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
    """Remove a folder if it exists, after giving it a hidden name in case the process dies."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}")
        folder.rename(hidden)
        shutil.rmtree(hidden)


def replace_link(link: Path, target: Path) -> None:
    """Point a relative link at `target`; do nothing on file systems without links."""
    aside = link.with_name(f".{link.name}.aside")
    aside.unlink(missing_ok=True)
    try:
        aside.symlink_to(target.relative_to(link.parent), target_is_directory=True)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return
    aside.replace(link)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
