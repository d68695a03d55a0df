"""The lock of a run folder: only one process at a time trains in it, on any machine.

A POSIX lock works over NFS and is released whenever its process ends. The file names the holder;
on file systems without locks, that name decides.
"""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sceneparse.errors import InputError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_TAKEN = {errno.EACCES, errno.EAGAIN}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class RunLock:
    """Keeps other processes out of a run folder; `name`: of the file, for folders of others."""

    def __init__(self, folder: Path, name: str = LOCK_FILE) -> None:
        self.path = folder / name
        self._file: IO[str] | None = None
        self._before: dict[str, Any] = {}

    @property
    def launch(self) -> str | None:
        """The name of the torchrun command that started the run, if any: see `sign`."""
        return self._before.get("launch")

    def acquire(self) -> None:
        """Take the lock; log it if the last holder died.

        The folder must exist. A second call does nothing. Raises InputError if another process
        holds the lock, or if the folder is read-only.
        """
        if self._file is not None:
            return
        try:
            # The only open file of the process: closing a second one would release the lock.
            self._file = self.path.open("a+", encoding="utf-8")
            self._lock(self._file)
            if self._before and not self._before.get("ended"):
                logger.info(f"{_name(self._before)} died; its lock is taken over")
            self._write(ended=False)
        except OSError as error:
            raise InputError(
                f"cannot write the run folder '{self.path.parent}': {error.strerror}"
            ) from error

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
        if self._file is None:
            return
        # If the disk is full, the file keeps the name of a process that has ended.
        with suppress(OSError):
            self._write(ended=True)
            self._file.close()
        self._file = None

    def _lock(self, file: IO[str]) -> None:
        """Lock the file; on file systems without locks, check the name of the holder."""
        failure = None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            failure = error.errno
            if failure not in _TAKEN | _NO_LOCKS:
                raise
        holder = self._before = _read(file)
        if failure in _TAKEN:
            raise self._in_use("wait for it")
        if failure is None or not holder or holder.get("ended"):
            return
        if holder.get("host") != socket.gethostname():
            raise self._in_use(f"if it has ended, delete {self.path}")
        with suppress(ProcessLookupError):  # the holder has ended
            with suppress(PermissionError):  # it belongs to another user
                os.kill(holder["pid"], 0)
            raise self._in_use("wait for it")

    def _in_use(self, remedy: str) -> InputError:
        option = "output=FOLDER" if self.path.name == LOCK_FILE else "--output"
        return InputError(
            f"'{self.path.parent}' is in use by {_name(self._before)}; {remedy}, or choose another "
            f"folder with {option}"
        )

    def _write(self, *, ended: bool) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "launch": self.launch}
        assert self._file is not None
        self._file.truncate(0)
        self._file.write(json.dumps({**holder, "ended": ended}) + "\n")
        self._file.flush()


def _read(file: IO[str]) -> dict[str, Any]:
    """Read the last holder; empty if there was none, or it was killed while it wrote its name."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and isinstance(holder.get("pid"), int) else {}


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host', 'an unknown host')}"
