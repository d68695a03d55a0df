"""A job of `sceneparse auto`: what was asked, its folder and its record; begun or resumed."""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import sceneparse
from sceneparse.auto.budget import Budget
from sceneparse.auto.intake import PROPOSAL
from sceneparse.auto.record import (
    PAGE_FILE,
    PLAN_FILE,
    RECORD_FILE,
    as_plain,
    read_record,
    write_record,
)
from sceneparse.errors import InputError, Preempted, first_few
from sceneparse.files import files_of_users, remove_empty_folder
from sceneparse.runs.lock import RunLock
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.shell import quoted
from sceneparse.runtime.versions import describe_device

logger = logging.getLogger(__name__)

# Held while a job runs, and touched every _BEAT seconds, so that the time of a job that was killed
# is known. Not the file of run folders, since OUTPUT is none.
_LOCK_FILE, _BEAT = ".auto.lock", 1.0
# The phase of seconds that a killed call had no time to record.
_CUT_OFF = "calls that were killed"
# What a job has written before its plan; files that are being written have hidden names.
_UNPLANNED = (RECORD_FILE, PLAN_FILE, PROPOSAL, "data", "first")


@dataclass(frozen=True)
class Request:
    """What the user asked for; `given`: settings by dotted key. `command`: as typed.

    `palette`: of the classes on the page, see LabelTable.with_palette.
    """

    source: Path
    output: Path
    command: str
    weights: str = "imagenet"
    licences: str = "warn"
    val: Path | None = None
    classes: Path | None = None
    seed: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    plan_only: bool = False
    palette: str = "dataset"

    @property
    def options(self) -> dict[str, Any]:
        """What a resumed job must have in common with this one, as plain values."""
        paths = {"DATA": self.source, "--val": self.val, "--classes": self.classes}
        settings = {f"the setting {key}": value for key, value in self.given.items()}
        values = {
            **{name: path and path.resolve() for name, path in paths.items()},
            "--weights": self.weights,
            "--licences": self.licences,
            "--seed": self.seed,
            **settings,
        }
        plain: dict[str, Any] = as_plain(values)
        return plain


@dataclass
class Job:
    """A request on the way to its result. `record` becomes auto.json."""

    request: Request
    budget: Budget
    process: Process
    record: dict[str, Any]

    @property
    def run_folder(self) -> Path:
        """The folder of the fine-tuning."""
        return self.request.output / "run"

    @property
    def planned(self) -> bool:
        """Whether plan.yaml is written."""
        return "choices" in self.record

    @property
    def finished(self) -> bool:
        """Whether the report is written."""
        return "mean_iou" in self.record and (self.request.output / PAGE_FILE).is_file()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of what is done inside to the phase `name`, also if it is interrupted."""
        try:
            with self.budget.phase(name):
                yield
        finally:
            self.save()

    def save(self) -> None:
        """Write the record as it is now."""
        self.record["phases"] = self.budget.phases
        self.record["seconds_used"] = self.budget.used
        write_record(self.request.output, self.record)


@contextmanager
def open_job(request: Request, budget: Budget, process: Process, *, resume: bool) -> Iterator[Job]:
    """Begin a job in its empty folder, or resume the one that was interrupted there.

    A job that fails before its plan is written leaves the folder as it was. Raises InputError.
    """
    output = request.output
    has_record, is_new = (output / RECORD_FILE).is_file(), not output.exists()
    _require_usable(output, resume=resume, has_record=has_record)
    output.mkdir(parents=True, exist_ok=True)
    lock, lost = RunLock(output, _LOCK_FILE), _lost_seconds(output)
    lock.acquire()
    job = None
    try:
        if has_record:
            job = _resumed(request, budget, process, lost)
        else:
            job = _begun(request, budget, process)
        with _touching(lock.path):
            yield job
    except Exception as error:
        if job is not None and not (job.planned or isinstance(error, Preempted)):
            _clear(output)
            is_new = is_new or has_record
        raise
    finally:
        lock.release()
        if not _others(output):
            for path in output.glob(f"{_LOCK_FILE}*"):
                path.unlink(missing_ok=True)
            if is_new:
                remove_empty_folder(output)


def _require_usable(output: Path, *, resume: bool, has_record: bool) -> None:
    """Raise InputError unless a folder is empty or absent, or holds a job to resume."""
    if output.exists() and not output.is_dir():
        raise InputError(f"'{output}' is a file; choose another folder with --output")
    if not (resume and has_record) and output.exists() and _others(output):
        with_resume = "resume its job with the same command and --resume, or " if has_record else ""
        raise InputError(
            f"'{output}' exists and is not empty; {with_resume}choose another folder with --output"
        )
    if resume and not has_record:
        logger.info(f"'{output}' has no job yet; it starts from the beginning")


def _lost_seconds(output: Path) -> float:
    """Return how long the last call lived after its record was saved, if it was killed."""
    record, lock = output / RECORD_FILE, output / _LOCK_FILE
    if not (record.is_file() and lock.is_file()):
        return 0.0
    return max(lock.stat().st_mtime - record.stat().st_mtime, 0.0)


@contextmanager
def _touching(path: Path) -> Iterator[None]:
    """Set the time of a file to now, again and again."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(_BEAT):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _others(folder: Path) -> bool:
    return any(not path.name.startswith(_LOCK_FILE) for path in files_of_users(folder))


def _clear(output: Path) -> None:
    """Remove what a job wrote before its plan."""
    for name in _UNPLANNED:
        for path in (output / name, *output.glob(f".{name}.*")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _begun(request: Request, budget: Budget, process: Process) -> Job:
    """Return a job that begins; its record exists from now on, so that it can be resumed."""
    record = {
        "command": request.command,
        "options": request.options,
        "minutes": budget.seconds / 60,
        "sceneparse": sceneparse.__version__,
        "machine": describe_device(process.device),
        "date": date.today().isoformat(),
        "source": str(request.source),
        "measured": [],
        "first": None,
        "scores": {},
        "warnings": [],
    }
    job = Job(request, budget, process, record)
    job.save()
    return job


def _resumed(request: Request, budget: Budget, process: Process, lost: float) -> Job:
    """Return an interrupted job with the time that it used; one without a plan starts again.

    `lost`: seconds that its record lacks.
    """
    output, record = request.output, read_record(request.output)
    if not math.isclose(record["minutes"] * 60, budget.seconds):
        raise InputError(
            f"'{output}' is a job of {record['minutes']:g} minutes; resume it with the same "
            f"--time, and once it is finished, go further with sceneparse auto "
            f"{quoted(str(output))} --time +20m"
        )
    before, now = record["options"], request.options
    absent = object()
    if changed := [
        f"{name} was {before.get(name, 'not given')}, is {now.get(name, 'not given')}"
        for name in {**before, **now}
        if before.get(name, absent) != now.get(name, absent)
    ]:
        raise InputError(
            f"'{output}' is another job: {first_few(changed)}; resume it with the options that it "
            f"began with ({record['command']}), or choose another folder with --output"
        )
    job = Job(request, budget, process, record)
    if job.finished:
        return job
    budget.used_before = record["seconds_used"] + lost
    budget.phases = dict(record["phases"])
    if lost > _BEAT:
        budget.phases[_CUT_OFF] = budget.phases.get(_CUT_OFF, 0.0) + lost
    if job.planned:
        logger.info(f"resuming {output}: {budget}")
        job.save()
        return job
    logger.info(f"{output} has no plan yet; the job starts again: {budget}")
    _clear(output)
    return _begun(request, budget, process)
