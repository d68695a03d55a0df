"""The lock of a run folder: only one process at a time trains in it, on any machine.

`.lock` names the holder. The system locks a file beside it, since nobody can read a locked file on
Windows: by flock, which Linux turns into locks of the server on NFS, or by LockFileEx. It releases
this lock whenever the process ends. On file systems without locks, the name of the holder decides.
"""

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from sceneparse.errors import InputError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
# Data workers that a killed process leaves behind hold its lock until they notice, in seconds.
_SECONDS_OF_WORKERS = 10.0


class RunLock:
    """Keeps other processes out of a run folder; `name`: of the file, for folders of others."""

    def __init__(self, folder: Path, name: str = LOCK_FILE) -> None:
        self.path = folder / name
        self._held = False
        self._before: dict[str, Any] = {}
        # One for all of this process (is_singleton), which may open its own run again.
        self._lock = FileLock(
            self.path.absolute().with_name(f"{name}.os"),
            thread_local=False,
            is_singleton=True,
            fallback_to_soft=False,
        )

    @property
    def launch(self) -> str | None:
        """The name of the torchrun command that started the run, if any: see `sign`."""
        return self._before.get("launch")

    def acquire(self) -> None:
        """Take the lock; log it if the last holder died.

        The folder must exist. A second call does nothing. Raises InputError if another process
        holds the lock, or if the folder is read-only.
        """
        if self._held:
            return
        try:
            self.path.touch()
            self._take()
            if self._before and not self._before.get("ended"):
                logger.info(f"{_name(self._before)} died; its lock is taken over")
            self._write(ended=False)
        except OSError as error:
            self._lock.release(force=True)
            raise InputError(
                f"cannot write the run folder '{self.path.parent}': {error.strerror}"
            ) from error
        self._held = True

    def sign(self, launch: str | None) -> None:
        """Store the name of the command that started the run, for its restarts after a failure."""
        self._before["launch"] = launch
        self._write(ended=False)

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Release the lock if the code inside raises, so that a refused start is no crash."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Mark the run as ended and release the lock."""
        if not self._held:
            return
        # If the disk is full, the file keeps the name of a process that has ended.
        with suppress(OSError):
            self._write(ended=True)
        self._lock.release(force=True)
        self._held = False

    def _take(self) -> None:
        """Take the lock of the system; on file systems without locks, check the holder's name."""
        self._before = _read(self.path)
        try:
            self._lock.acquire(timeout=_SECONDS_OF_WORKERS if _died(self._before) else 0)
        except Timeout:
            self._before = _read(self.path)
            raise self._in_use("wait for it") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._check_name()

    def _check_name(self) -> None:
        """Raise InputError unless the last holder has ended, or died on this machine."""
        if not self._before or self._before.get("ended") or _died(self._before):
            return
        is_here = self._before.get("host") == socket.gethostname()
        raise self._in_use("wait for it" if is_here else f"if it has ended, delete {self.path}")

    def _in_use(self, remedy: str) -> InputError:
        option = "output=FOLDER" if self.path.name == LOCK_FILE else "--output"
        return InputError(
            f"'{self.path.parent}' is in use by {_name(self._before)}; {remedy}, or choose another "
            f"folder with {option}"
        )

    def _write(self, *, ended: bool) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "launch": self.launch}
        self.path.write_text(json.dumps({**holder, "ended": ended}) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """Read the last holder; empty if there was none, or it was killed while it wrote its name."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and isinstance(holder.get("pid"), int) else {}


def _died(holder: dict[str, Any]) -> bool:
    """Return whether a holder did not end by itself, and is no longer running on this machine.

    A killed process keeps its number until its parent looks after it, in some containers for ever.
    """
    if holder.get("host") != socket.gethostname() or holder.get("ended"):
        return False
    try:
        return bool(psutil.Process(holder["pid"]).status() == psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, ValueError):  # of a negative number, in a damaged file
        return True
    except psutil.AccessDenied:
        return False


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host', 'an unknown host')}"
