"""Where a sweep is kept: in an SQLite file, or in a PostgreSQL database for many machines.

Optuna's storage does the work: workers give signs of life in it, and a trial whose worker gives
none any more is queued again. Here it is opened, and its failures are explained.
"""

from __future__ import annotations

import copy
import logging
import sqlite3
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import QueuePool

from sceneparse.errors import InputError, refusing

_log = logging.getLogger(__name__)

DATABASE_ERRORS = (StorageInternalError, exc.SQLAlchemyError)
MAX_KILLS = 3
# A worker gives a sign of life every 10 seconds, and counts as dead after a minute without one.
SECONDS_BETWEEN_SIGNS = 10
GRACE_SECONDS = 60

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # of the signs of life


class _Storage(RDBStorage):
    """Optuna's storage, without two gaps in its signs of life."""

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        # Optuna gives the first sign late; a worker killed before it would never count as dead.
        if state == TrialState.RUNNING:
            self.record_heartbeat(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(*DATABASE_ERRORS):  # one lost sign would end the thread that gives them
            super().record_heartbeat(trial_id)


def retry(study: Study, attempt: FrozenTrial, reason: str = "gave no sign of life") -> None:
    """Queue a trial again whose worker was stopped, or killed up to MAX_KILLS times; print why."""
    attrs = attempt.user_attrs
    stops, retries = attrs.get("stops", 0), retries_of(attempt)
    if reason:
        then = "it is run again" if retries - stops < MAX_KILLS else "it is given up"
        worker = f"its worker {attrs.get('worker', '')}"
        _log.info("trial %s: %s %s; %s", attrs.get("trial"), worker, reason, then)
    again = RetryHeartbeatStaleTrialCallback(MAX_KILLS + stops, inherit_intermediate_values=True)
    again(study, copy.deepcopy(attempt))


def retries_of(attempt: FrozenTrial) -> int:
    """Return how many attempts at the same trial came before this one."""
    return len(attempt.system_attrs.get("retry_history", []))


def open_storage(place: str) -> RDBStorage:
    """Open the SQLite file or the database ("postgresql://...") of a study; raises InputError."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" in place:
        url = _database_url(place)
        return _open(str(url), url.render_as_string(hide_password=False), {"pool_pre_ping": True})
    with refusing(place, "no place for the database of a sweep"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    # SQLite has no SELECT FOR UPDATE: unless a transaction locks the file from its start, two
    # workers can take the same trial.
    connect = partial(
        sqlite3.connect, place, timeout=60, isolation_level=None, check_same_thread=False
    )
    storage = _open(place, "sqlite:///", {"creator": connect, "poolclass": QueuePool})
    event.listen(storage.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _open(name: str, url: str, engine: dict[str, Any], tries: int = 3) -> RDBStorage:
    try:
        return _Storage(
            url.replace("{", "{{").replace("}", "}}"),  # Optuna fills in a template
            engine_kwargs=engine,
            heartbeat_interval=SECONDS_BETWEEN_SIGNS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=retry,
        )
    # Or the driver is missing, or the tables are of another version of Optuna.
    except (*DATABASE_ERRORS, ImportError, RuntimeError) as error:
        # Commands that start at the same moment create the tables at the same moment.
        twice = isinstance(error, exc.IntegrityError | exc.ProgrammingError)
        if tries > 1 and (twice or "already exists" in str(error)):
            time.sleep(1)
            return _open(name, url, engine, tries - 1)
        verb = "reach" if isinstance(error, exc.OperationalError) else "use"
        raise InputError(f"cannot {verb} the database {name}: {_reason(error)}") from error


def _database_url(place: str) -> URL:
    """Read a URL; it prints without its password."""
    try:
        url = make_url(place)
        name = url.get_backend_name()
    except (exc.ArgumentError, ValueError):  # the message may hold the password
        raise InputError(
            "--storage is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE; write "
            "/, : and @ in a password as %2F, %3A and %40"
        ) from None
    if name not in {"postgresql", "postgres"}:
        raise InputError(f"--storage takes postgresql://... or a file for SQLite, got {name}://")
    return url.set(drivername="postgresql+psycopg")


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turn a lost or damaged database into an InputError."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise InputError(
            f"lost the database: {_reason(error)}; when it is back, resume with the same command"
        ) from error


def _reason(error: BaseException) -> str:
    """Return the message of the database's driver, without SQL and links."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    text = str(getattr(cause, "orig", None) or cause).splitlines()[0]
    if "not a database" in text:
        text += "; a journal is of an earlier version of sceneparse, which can finish its sweep"
    return text
