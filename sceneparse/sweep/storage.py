"""Where a sweep is written down: a journal file, or a PostgreSQL database for many machines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from sceneparse.errors import InputError

# Machines that start at the same moment make the tables of a new database at the same moment.
_OPENINGS = 3


def open_storage(place: str) -> BaseStorage:
    """Open the file or database ("postgresql://...") of a study; raises InputError."""
    # What happens is told by those who let it happen.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return _open_database(place) if "://" in place else _open_journal(Path(place))


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_journal(path)
        return JournalStorage(JournalFileBackend(str(path.absolute())))
    except OSError as error:
        raise InputError(f"cannot use the journal {path}: {error.strerror}") from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged, or not the journal of a sweep") from error


def _check_journal(path: Path) -> None:
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            intact = line.endswith(b"\n") and "op_code" in dict(json.loads(line))
        except (TypeError, ValueError):
            intact = False
        if not intact:
            raise InputError(
                f"{path}, line {number}: damaged, or not the journal of a sweep; where a full disk "
                "or a crash cut off the last line, delete that line and go on with the same command"
            )


def _whole_lines(path: Path) -> list[bytes]:
    """Read a file to which others may be adding a line just now."""
    lines: list[bytes] = []
    for _ in range(10):
        lines = path.read_bytes().splitlines(keepends=True)
        if not lines or lines[-1].endswith(b"\n"):
            break
        time.sleep(0.1)
    return lines


def _open_database(place: str) -> BaseStorage:
    url = _database_url(place)
    if find_spec("psycopg") is None:
        raise InputError("psycopg is not installed; run: pip install 'sceneparse[sweep]'")
    text = url.render_as_string(hide_password=False)
    for opening in range(_OPENINGS):
        try:
            return RDBStorage(text, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError) as error:
            if opening == _OPENINGS - 1:
                raise InputError(f"cannot use the database {url}: {_reason(error)}") from error
            time.sleep(1)
        except SQLAlchemyError as error:
            raise InputError(f"cannot reach the database {url}: {_reason(error)}") from error
        except RuntimeError as error:  # tables of another version of Optuna
            raise InputError(f"cannot use the database {url}: {error}") from error
    raise AssertionError("the last opening returns or raises")


def _database_url(place: str) -> URL:
    """Read a URL; it prints without its password."""
    try:
        url = make_url(place)
        name = url.get_backend_name()
    except (ArgumentError, ValueError):  # their words may hold the password
        raise InputError(
            "--storage is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE; write "
            "/, : and @ in a password as %2F, %3A and %40"
        ) from None
    if name not in {"postgresql", "postgres"}:
        raise InputError(f"--storage takes postgresql://... or a file for a journal, got {name}://")
    return url.set(drivername="postgresql+psycopg")


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turn the loss of the storage into an InputError; what was running is found and run again."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise InputError("the journal of the sweep was damaged while it was in use") from error
    except (StorageInternalError, SQLAlchemyError) as error:
        raise InputError(
            f"lost the database: {_reason(error)}; the same command goes on when it is back"
        ) from error


def _reason(error: BaseException) -> str:
    """Say what the database's driver says, without SQL and links."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return str(getattr(cause, "orig", None) or cause).splitlines()[0]
