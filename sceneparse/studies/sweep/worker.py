"""The processes that run the trials of a sweep: each takes trials until none is left."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn

from sceneparse.config.classification import ClsConfig, ClsDataSection
from sceneparse.data.image_folders import LabelledImages
from sceneparse.errors import InputError, NumericalError, Preempted, one_line
from sceneparse.models.classification import create_classifier
from sceneparse.models.licences import check_licence
from sceneparse.models.origin import origin_of
from sceneparse.runs.folder import is_run_folder
from sceneparse.runs.log import read_records
from sceneparse.runtime.devices import choose_device
from sceneparse.runtime.distributed import Process, join_processes
from sceneparse.runtime.progress import format_seconds, log_on_main
from sceneparse.runtime.shell import escape_unprintable
from sceneparse.runtime.signals import StopRequest
from sceneparse.studies.sweep.plan import Plan
from sceneparse.studies.sweep.results import describe, rows_of
from sceneparse.studies.sweep.settings import suggest
from sceneparse.studies.sweep.study import (
    DATABASE_ERRORS,
    attempts_of,
    check_folder,
    explained_failures,
    in_state,
    join_study,
    open_storage,
    retry,
)
from sceneparse.training.classification import load_data, prepare_seed, seed_folder
from sceneparse.training.run import train
from sceneparse.training.validation import Validated

Data = tuple[LabelledImages, LabelledImages]

logger = logging.getLogger(__name__)
_UNFINISHED = (TrialState.WAITING, TrialState.RUNNING)
# Exit code of a worker after a failed trial on a GPU, which some failures leave unusable for it.
_LOST_GPU = 76


def check_runs(plan: Plan, licences: str = "warn") -> None:
    """Check the folder, device, datasets and networks of a sweep; raises InputError.

    `licences`: what to do about the licences of pretrained weights, see `check_licence`.
    """
    check_folder(plan.output)
    choose_device(plan.device)
    for config in plan.listed_configs(*(f"data.{name}" for name in ClsDataSection.model_fields)):
        load_data(config)
    for config in plan.listed_configs("model", "attention", "stem", "pretrained"):
        with torch.device("meta"):
            model = create_classifier(config.model, attention=config.attention, stem=config.stem)
        origin = origin_of(model.meta["model"], config.pretrained)
        check_licence(origin, config.pretrained, licences, output_stride=32)


def run_workers(
    plan: Plan, place: str, study: Study, workers: int, *, quiet: bool = False
) -> str | None:
    """Run the unfinished trials in processes; return the signal that stopped them, or None.

    `quiet`: see log_on_main. Raises InputError if the workers ended and left trials, as when the
    system killed them.
    """
    count = min(workers, len(in_state(attempts_of(study), *_UNFINISHED)))
    context = multiprocessing.get_context("spawn")
    ending = context.Event()

    def start(seat: int) -> BaseProcess:
        process = context.Process(target=work, args=(plan, place, seat, count, ending, quiet))
        process.start()
        return process

    with StopRequest() as stop:
        processes = [start(seat) for seat in range(count)]
        try:
            while stop.name is None and any(p.exitcode in {None, _LOST_GPU} for p in processes):
                processes = [
                    start(seat) if process.exitcode == _LOST_GPU else process
                    for seat, process in enumerate(processes)
                ]
                time.sleep(0.2)
        finally:
            # A worker that is told to end saves its run and queues the trial again: at the end of
            # the epoch, or at once by a signal. Windows has no signal that it could save at.
            ending.set()
            for process in processes if sys.platform != "win32" else ():
                process.terminate()
            for process in processes:
                process.join()
    left = len(in_state(attempts_of(study), *_UNFINISHED))
    if left and stop.name is None:
        raise InputError(
            f"the workers ended and left {left} trials; see what they printed, then resume with "
            "the same command, with fewer --workers if memory was short"
        )
    return stop.name


def work(plan: Plan, place: str, seat: int, seats: int, ending: Event, quiet: bool = False) -> None:
    """Run trials until none waits or runs, or until it is told to end or the parent is gone.

    `place`: that of the storage; `seat`: number of this worker among the `seats` of the machine.
    Exits with code 2 if the storage is lost.
    """
    escape_unprintable()
    log_on_main(quiet=quiet)
    torch.set_num_threads(max(1, torch.get_num_threads() // seats))
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(seat % torch.cuda.device_count())
    try:
        device = plan.device
        with explained_failures(), join_processes(device) as process, StopRequest() as stop:
            _run_trials(_Objective(plan, process, stop, ending), place)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _run_trials(objective: _Objective, place: str) -> None:
    study = join_study(objective.plan, open_storage(place))
    rows = rows_of(objective.plan, attempts_of(study))
    objective.ended_before = sum(row.ended for row in rows)
    while not objective.stopping:
        attempts = attempts_of(study)
        if not in_state(attempts, *_UNFINISHED):
            return
        if not in_state(attempts, TrialState.WAITING):
            time.sleep(1)
            fail_stale_trials(study)  # if a worker was killed, its trial waits again
            continue
        try:
            study.optimize(objective, n_trials=1, callbacks=[objective.log_end])
        except Preempted:
            return
        except InputError:
            raise
        except (ValueError, UpdateFinishedTrialError):
            continue  # counted as killed, as after a long pause: another worker has the trial
        if objective.failed and objective.process.device.type == "cuda":
            sys.exit(_LOST_GPU)


@dataclass
class _Objective:
    """Runs a trial and returns its value; NaN, which Optuna counts as failed, if it has none."""

    plan: Plan
    process: Process
    stop: StopRequest
    ending: Event
    failed: bool = False
    started: float = field(default_factory=time.monotonic)
    ended_before: int = 0

    @property
    def stopping(self) -> bool:
        """Whether a signal came, or the command that started this process ends it or is gone."""
        parent = multiprocessing.parent_process()
        is_told = self.stop.name is not None or self.ending.is_set()
        return is_told or (parent is not None and not parent.is_alive())

    def log_end(self, study: Study, attempt: FrozenTrial) -> None:
        """Log a line for a trial that ended, with the time left over all trials."""
        rows = {row.trial: row for row in rows_of(self.plan, attempts_of(study))}
        if row := rows.get(attempt.user_attrs.get("trial", -1)):
            ended = sum(row.ended for row in rows.values())
            pace = (time.monotonic() - self.started) / max(ended - self.ended_before, 1)
            left = format_seconds(pace * (len(rows) - ended))
            logger.info("%s  %d/%d  %s left", describe(self.plan, row), ended, len(rows), left)

    def __call__(self, trial: Trial) -> float:
        number = int(trial.user_attrs.get("trial", -1))
        attempts = attempts_of(trial.study).get(number)
        if not attempts or attempts[-1].number != trial.number:
            return math.nan  # not planned: the queue was empty, or held this attempt twice
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        try:
            return self._value(trial, number)
        except (optuna.TrialPruned, *DATABASE_ERRORS):
            raise
        except Preempted:
            trial.set_user_attr("stops", trial.user_attrs.get("stops", 0) + 1)
            # Queued before this attempt ends: a kill in between leaves a double, not a gap.
            retry(trial.study, attempts_of(trial.study)[number][-1], reason="")
            raise
        except Exception as error:  # it ends this trial only
            trial.set_user_attr("error", f"{type(error).__name__}: {one_line(error)}")
            self.failed = True
            return math.nan

    def _value(self, trial: Trial, number: int) -> float:
        """Train the seeds of a trial; return the mean of their last epochs."""
        # The seed depends on the trial alone, not on the worker that takes it.
        trial.study.sampler = optuna.samplers.TPESampler(seed=number)
        params = suggest(trial, self.plan.space)
        for other in in_state(attempts_of(trial.study), TrialState.COMPLETE):
            if other.params == params and other.value is not None:  # it would be the same run
                trial.set_user_attr("same_as", other.user_attrs["trial"])
                return other.value
        with _log_to(self.plan.folder(number)):
            config = self.plan.config_of(params, number)
            data = load_data(config)
            values = [self._train(trial, config, data, seed) for seed in config.seeds]
        mean = sum(values) / len(values)
        if not math.isfinite(mean):
            raise NumericalError(f"{self.plan.metric} is {mean} after the last epoch")
        return mean

    def _train(self, trial: Trial, config: ClsConfig, data: Data, seed: int) -> float:
        """Train or resume a seed; the first one may end the trial early. Return its last value."""
        folder = seed_folder(config, seed)
        begun = is_run_folder(folder)
        training = prepare_seed(config, seed, data, self.process, resume=begun, overwrite=False)
        metric, validate = self.plan.metric, training.validate

        def validate_and_report(model: nn.Module) -> Validated:
            found = validate(model)
            if seed == config.seeds[0]:
                trial.report(found.values[metric], training.position.epoch)
                if not training.finished and trial.should_prune():
                    raise optuna.TrialPruned
            if self.stopping:
                signal.raise_signal(signal.SIGTERM)  # the run saves its state
            return found

        training.validate = validate_and_report
        try:
            if self.stopping:
                raise Preempted("stopped between two runs")
            train(training)
        finally:
            training.lock.release()
        values = [record[metric] for record in read_records(folder) if record["kind"] == "val"]
        return float(values[-1])


@contextmanager
def _log_to(folder: Path) -> Iterator[None]:
    """Write what a run prints, and the traceback of its failure, to FOLDER/train.log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "train.log").open("a", encoding="utf-8", buffering=1) as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise
