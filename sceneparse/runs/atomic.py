"""Write files and folders under another name, sync and rename them: complete or absent."""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

# The errors of file systems that cannot sync a folder.
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM}
# Seconds between attempts to change files on Windows, where no open file can be renamed.
_PAUSES: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0) if sys.platform == "win32" else ()


def write_synced(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(path)` to create a file, then sync it to disk."""
    write(path)
    with path.open("r+b") as file:  # Windows syncs no file that is open for reading alone
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 whose lines end the same way on every system, and sync it to disk."""
    write_synced(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


def replace_text(path: Path, text: str) -> None:
    """Replace the text of a file; at any moment it holds the old text or the new one."""
    aside = path.with_name(f".{path.name}.aside")
    write_text(aside, text)
    _patiently(lambda: aside.replace(path))
    sync_folder(path.parent)


def replace_folder(aside: Path, folder: Path) -> Path:
    """Rename the folder `aside` to `folder`; return the new name of an older `folder`.

    Two folders cannot be exchanged at once: for an instant only the older one exists, renamed.
    """
    older = folder.with_name(f"{folder.name}.replaced")
    sync_folder(aside)
    if folder.exists():
        remove_folder(older)
        _patiently(lambda: folder.rename(older))
    _patiently(lambda: aside.rename(folder))
    sync_folder(folder.parent)
    return older


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists, after giving it a hidden name in case the process dies."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}")
        _patiently(lambda: folder.rename(hidden))
        _patiently(lambda: shutil.rmtree(hidden))


def replace_pointer(pointer: Path, target: Path) -> None:
    """Write the path of `target` into the file `pointer`, relative to its folder.

    Replaces a link, as earlier versions made, and the folder that a copy of a run made of a link.
    """
    if pointer.is_dir() and not pointer.is_symlink():
        remove_folder(pointer)
    replace_text(pointer, f"{target.relative_to(pointer.parent).as_posix()}\n")


def _patiently(change: Callable[[], object]) -> None:
    """Call `change`; on Windows again, while a virus scanner or a reader has the files open."""
    for pause in _PAUSES:
        try:
            change()
            return
        except PermissionError:
            time.sleep(pause)
    change()


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to disk, except on Windows, which cannot."""
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        finally:
            os.close(descriptor)
