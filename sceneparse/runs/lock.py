"""The lock of a run folder: one process at a time trains in it, on whatever machine.

The system holds the lock (POSIX, over NFS too) and lets go when the process ends, however it ends.
The file names the holder. Where a file system has no locks, that name decides.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sceneparse.errors import InputError

LOCK_FILE = ".lock"
_TAKEN = {errno.EACCES, errno.EAGAIN}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class RunLock:
    """Keeps other processes out of a run folder; `say` tells of a dead one's lock."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.path = folder / LOCK_FILE
        self._say = say
        self._file: IO[str] | None = None
        self._before: dict[str, Any] = {}

    @property
    def launch(self) -> str | None:
        """The name of the command that began the run, where it had one: see `sign`."""
        launch = self._before.get("launch")
        return launch if isinstance(launch, str) else None

    def acquire(self) -> None:
        """Take the lock, from a dead process too, which is said.

        Its folder must be there. Taking it twice is taking it once. Raises InputError where it is
        held, or the folder is read-only.
        """
        if self._file is not None:
            return
        try:
            # The only open file of the process: closing a second one would let go of the lock.
            self._file = self.path.open("a+", encoding="utf-8")
            self._lock(self._file)
            if self._before and not self._before.get("ended"):
                self._say(f"{_who(self._before)} ended without a word; its lock is taken over")
            self._write(self.launch, ended=False)
        except OSError as error:
            raise InputError(
                f"cannot write the run folder '{self.path.parent}': {error.strerror}"
            ) from error

    def sign(self, launch: str | None) -> None:
        """Write down which command began the run, for those that it starts after a failure."""
        self._before["launch"] = launch
        self._write(launch, ended=False)

    def release(self) -> None:
        """Sign off and let go."""
        if self._file is None:
            return
        # On a full disk the name stays as that of a process that has ended.
        with suppress(OSError):
            self._write(self.launch, ended=True)
            self._file.close()
        self._file = None

    def _lock(self, file: IO[str]) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._before = _read(file)
        except OSError as error:
            self._before = _read(file)
            if error.errno in _TAKEN:
                raise self._refusal("wait for it") from error
            if error.errno not in _NO_LOCKS:
                raise
            self._trust_the_name()

    def _trust_the_name(self) -> None:
        """Without locks: refuse what another process may hold, as far as its name tells."""
        before = self._before
        if not before or before.get("ended"):
            return
        if before.get("host") != socket.gethostname():
            raise self._refusal(f"if it has ended, delete {self.path}")
        if _is_alive(before["pid"]):
            raise self._refusal("wait for it")

    def _refusal(self, remedy: str) -> InputError:
        return InputError(
            f"'{self.path.parent}' is in use by {_who(self._before)}; {remedy}, or choose another "
            "folder with output=FOLDER"
        )

    def _write(self, launch: str | None, *, ended: bool) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "launch": launch}
        assert self._file is not None
        self._file.truncate(0)
        self._file.write(json.dumps({**holder, "ended": ended}) + "\n")
        self._file.flush()


def _read(file: IO[str]) -> dict[str, Any]:
    """Read who held the lock; nobody, where it was killed while it wrote its name."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and isinstance(holder.get("pid"), int) else {}


def _who(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host', 'an unknown host')}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
