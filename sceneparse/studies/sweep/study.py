"""The Optuna study of a sweep, in an SQLite file, or in PostgreSQL for many machines.

Every trial is queued before the first one starts. Workers send heartbeats; a trial whose worker was
killed or stopped gets another attempt at the end of the queue, which resumes in the same folder.
"""

import copy
import logging
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import QueuePool

from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import files_of_users
from sceneparse.runs.folder import changed_settings
from sceneparse.studies.sweep.plan import Plan

# The attempts at each trial, in their order; the last one holds the trial's state and value.
Attempts = dict[int, list[FrozenTrial]]

logger = logging.getLogger(__name__)
_OWN_FILES = ("trial-*", "sweep.*", "*.png", "*.svg")
DATABASE_ERRORS = (StorageInternalError, exc.SQLAlchemyError)
MAX_KILLS = 3
_HEARTBEAT_SECONDS = 10
_GRACE_SECONDS = 60  # without a heartbeat, until a worker counts as killed

warnings.filterwarnings("ignore", category=ExperimentalWarning)  # of the heartbeat


class _Storage(RDBStorage):
    """Optuna's storage without two gaps in its heartbeat."""

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        # Optuna's first heartbeat is late; a worker killed before it would never count as killed.
        if state == TrialState.RUNNING:
            self.record_heartbeat(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(*DATABASE_ERRORS):  # one lost heartbeat would end the thread that sends them
            super().record_heartbeat(trial_id)


def retry(study: Study, attempt: FrozenTrial, reason: str = "sent no heartbeat") -> None:
    """Queue a trial again whose worker was stopped, or killed up to MAX_KILLS times; log why."""
    attrs = attempt.user_attrs
    stops, retries = attrs.get("stops", 0), retries_of(attempt)
    if reason:
        then = "it is run again" if retries - stops < MAX_KILLS else "it is given up"
        worker = f"its worker {attrs.get('worker', '')}"
        logger.info("trial %s: %s %s; %s", attrs.get("trial"), worker, reason, then)
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
    with refusing(place, "cannot hold the database of a sweep"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    # SQLite has no SELECT FOR UPDATE: unless a transaction locks the file from its start, two
    # workers can take the same trial.
    connect = partial(
        sqlite3.connect, place, timeout=60, isolation_level=None, check_same_thread=False
    )
    storage = _open(place, "sqlite:///", {"creator": connect, "poolclass": QueuePool})
    event.listen(storage.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _open(name: str, url: str, engine: dict[str, Any]) -> RDBStorage:
    try:
        return _Storage(
            url.replace("{", "{{").replace("}", "}}"),  # Optuna fills in a template
            engine_kwargs=engine,
            heartbeat_interval=_HEARTBEAT_SECONDS,
            grace_period=_GRACE_SECONDS,
            heartbeat_stale_trial_callback=retry,
        )
    # Also if the driver is missing, or the tables are of another version of Optuna.
    except (*DATABASE_ERRORS, ImportError, RuntimeError) as error:
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
    return str(getattr(cause, "orig", None) or cause).splitlines()[0]


def check_folder(folder: Path) -> None:
    """Raise InputError if a folder holds anything but a sweep."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file; choose another folder with output=FOLDER")
    names = sorted(path.name for path in files_of_users(folder)) if folder.exists() else []
    foreign = [name for name in names if not any(fnmatch(name, own) for own in _OWN_FILES)]
    if foreign:
        raise InputError(
            f"'{folder}' holds more than a sweep ({first_few(foreign)}); choose another folder "
            "with output=FOLDER"
        )


def open_study(plan: Plan, storage: BaseStorage) -> Study:
    """Create or resume the study, and queue the trials it lacks.

    Raises InputError if the folder or the study belongs to another sweep.
    """
    if plan.name not in optuna.study.get_all_study_names(storage):
        if any(plan.output.glob("trial-*")):
            raise InputError(
                f"'{plan.output}' holds the trials of another sweep; choose another folder with "
                "output=FOLDER"
            )
        with suppress(DuplicatedStudyError):  # another machine has just created it
            optuna.create_study(storage=storage, study_name=plan.name, direction=plan.direction)
    study = join_study(plan, storage)
    _check_same_plan(plan, study)
    known = attempts_of(study)
    if len(known) > plan.trials:
        raise InputError(
            f"the study '{plan.name}' has {len(known)} trials already; give as many by --trials or "
            "run_cap, or more"
        )
    # A trial that failed without an error: a process was killed before it queued it again.
    for attempt in in_state(known, TrialState.FAIL):
        if "error" not in attempt.user_attrs:
            retry(study, attempt, reason="")
    for trial, params in enumerate(plan.starts()):
        if trial not in known:
            study.enqueue_trial(params, {"trial": trial})
    return study


def join_study(plan: Plan, storage: BaseStorage) -> Study:
    """Open an existing study, with the rule that ends its trials early."""
    return optuna.load_study(study_name=plan.name, storage=storage, pruner=plan.pruner())


def _check_same_plan(plan: Plan, study: Study) -> None:
    """Raise InputError if the study is of another plan; a study that is new takes this one."""
    if not study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr("plan", plan.description())
    saved = study.user_attrs.get("plan")
    if saved is None:
        raise InputError(f"the study '{plan.name}' is not a sweep of sceneparse; choose a name")
    if changed := changed_settings(saved, plan.description()):
        raise InputError(
            f"the study '{plan.name}' is of another sweep: {first_few(changed)}; resume with the "
            "same settings, or start another sweep with a new name and output=FOLDER"
        )


def attempts_of(study: Study) -> Attempts:
    """Return the attempts at each planned trial, the first one and the retries.

    Machines that queue the same attempt at the same moment do no harm: the first one counts.
    """
    found: Attempts = {}
    for attempt in study.get_trials(deepcopy=False):
        trial = attempt.user_attrs.get("trial")
        if trial is not None:  # else a worker found the queue empty
            attempts = found.setdefault(trial, [])
            if retries_of(attempt) == len(attempts):
                attempts.append(attempt)
    return {trial: of for trial, of in sorted(found.items()) if of}


def in_state(attempts: Attempts, *states: TrialState) -> list[FrozenTrial]:
    """Return the last attempts that are in one of the states."""
    return [of[-1] for of in attempts.values() if of[-1].state in states]
