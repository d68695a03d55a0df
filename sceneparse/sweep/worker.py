"""One of the processes that carry trials out: it takes them from the study until none waits."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import torch
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from sceneparse.config.classification import ClsConfig, ClsDataSection
from sceneparse.data.classes import LabelledImages
from sceneparse.errors import InputError, NumericalError, Preempted
from sceneparse.models.classification import create_classifier
from sceneparse.runs.folder import is_run_folder
from sceneparse.runtime.distributed import Process, join_processes
from sceneparse.runtime.progress import log_on_main
from sceneparse.runtime.signals import StopRequest
from sceneparse.sweep.plan import Params, Plan
from sceneparse.sweep.storage import explained_failures, open_storage
from sceneparse.sweep.study import (
    SECONDS_BETWEEN_SIGNS,
    attempts_of,
    in_state,
    join_study,
    put_back,
    suggest,
    take,
)
from sceneparse.training.classification import load_data, prepare_seed, seed_folder
from sceneparse.training.run import Training, train
from sceneparse.training.validation import Validated

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event


@dataclass(frozen=True)
class Seat:
    """The place of a worker among how many on this machine, and the word to stop."""

    place: int
    places: int
    stop: Event


def worker_name(pid: int) -> str:
    """Name a process of this machine so that all machines tell it from theirs."""
    return f"{socket.gethostname()}:{pid}"


def check_runs(plan: Plan) -> None:
    """Read the data and build the networks of all that is listed; raises InputError."""
    keys = (f"data.{name}" for name in ClsDataSection.model_fields)
    for config in plan.listed_configs(*keys):
        _data_of(config)
    _load_once.cache_clear()
    for config in plan.listed_configs("model", "attention", "stem"):
        with torch.device("meta"):
            create_classifier(config.model, attention=config.attention, stem=config.stem)


def work(plan: Plan, storage: str, seat: Seat) -> None:
    """Carry out trials until none waits, or until the word to stop; what a process is started for.

    Exits with code 2 where the storage is lost.
    """
    log_on_main()
    torch.set_num_threads(max(1, torch.get_num_threads() // seat.places))
    if torch.cuda.is_available():
        os.environ["LOCAL_RANK"] = str(seat.place % torch.cuda.device_count())
    try:
        with explained_failures():
            _work_through(plan, storage, seat)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _work_through(plan: Plan, storage: str, seat: Seat) -> None:
    with join_processes() as process, StopRequest() as stop:

        def stopping() -> bool:
            return stop.name is not None or seat.stop.is_set() or _deserted()

        study = join_study(plan, open_storage(storage))
        while not stopping() and in_state(attempts_of(study), TrialState.WAITING):
            taken = take(study, worker_name(os.getpid()))
            if taken is not None and not _Work(plan, study, taken, process, stopping).carry_out():
                return


def _deserted() -> bool:
    """Whether the command that started this process is gone."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


@dataclass(frozen=True)
class _Work:
    """An attempt at a trial, and all that it takes."""

    plan: Plan
    study: Study
    taken: Trial
    process: Process
    stopping: Callable[[], bool]

    @property
    def trial(self) -> int:
        return int(self.taken.user_attrs["trial"])

    def carry_out(self) -> bool:
        """Run the trial and tell the study what became of it; whether the worker may go on."""
        try:
            return self._run_and_tell()
        except UpdateFinishedTrialError:
            # Taken for dead, as after a long pause of the machine; another worker has the trial.
            return True

    def _run_and_tell(self) -> bool:
        study, taken = self.study, self.taken
        try:
            value = self._value()
        except optuna.TrialPruned:
            study.tell(taken, state=TrialState.PRUNED, skip_if_finished=True)
        except (Preempted, KeyboardInterrupt):
            attempt = attempts_of(study)[self.trial][taken.user_attrs["attempt"]]
            put_back(study, attempt, killed=False)
            return False
        except (StorageInternalError, SQLAlchemyError, UpdateFinishedTrialError):
            raise
        except Exception as error:  # of whatever kind: it is this trial's, and the others go on
            taken.set_user_attr("error", _one_line(error))
            study.tell(taken, state=TrialState.FAIL, skip_if_finished=True)
            # Some failures leave a GPU unusable for the process.
            return self.process.device.type != "cuda"
        else:
            study.tell(taken, value, skip_if_finished=True)
        return True

    def _value(self) -> float:
        """Train the seeds of the trial; return the mean of their last epochs."""
        # Sampling is a function of the trial and of what is known of others, whoever takes it.
        self.study.sampler = optuna.samplers.TPESampler(seed=self.trial)
        params = suggest(self.taken, self.plan.space)
        known = self._known_value(params)
        if known is not None:
            return known
        with _log_to(self.plan.folder(self.trial)), self._signs_of_life():
            config = self.plan.config_of(params, self.trial)
            values = [self._train(config, seed) for seed in config.seeds]
        mean = sum(values) / len(values)
        if not math.isfinite(mean):
            raise NumericalError(f"{self.plan.metric} is {mean} after the last epoch")
        return mean

    def _known_value(self, params: Params) -> float | None:
        """Look for a finished trial with the same parameters: it would be the same run."""
        for attempt in in_state(attempts_of(self.study), TrialState.COMPLETE):
            if attempt.params == params:
                self.taken.set_user_attr("same_as", attempt.user_attrs["trial"])
                return attempt.value
        return None

    def _train(self, config: ClsConfig, seed: int) -> float:
        """Train a seed, from its last checkpoint where there is one; return its last value."""
        if self.stopping():
            raise Preempted("stopped between two runs")
        folder = seed_folder(config, seed)
        data, begun = _data_of(config), is_run_folder(folder)
        training = prepare_seed(config, seed, data, self.process, resume=begun, overwrite=False)
        if seed == config.seeds[0]:
            self._report(training)
        train(training)
        return _values_of(folder, self.plan.metric)[training.epochs]

    def _report(self, training: Training) -> None:
        """Report what a run is worth after each epoch, and end it where it is hopeless."""
        taken, metric, validate = self.taken, self.plan.metric, training.validate
        for epoch, value in _values_of(training.folder, metric).items():
            taken.report(value, epoch)

        def validate_and_report(model: nn.Module) -> Validated:
            found = validate(model)
            taken.report(found.values[metric], training.position.epoch)
            if not training.finished and taken.should_prune():
                raise optuna.TrialPruned
            return found

        training.validate = validate_and_report

    @contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Let others see that the trial is being worked on; stop where it shall not go on."""
        done = threading.Event()

        def give_signs() -> None:
            for sign in itertools.count():
                lost = False
                try:
                    self.taken.set_user_attr("sign", sign)
                except UpdateFinishedTrialError:
                    lost = True
                except (StorageInternalError, SQLAlchemyError) as error:
                    sys.stderr.write(f"a sign of life was lost: {_one_line(error)}\n")
                if lost or self.stopping():
                    os.kill(os.getpid(), signal.SIGTERM)  # as a stop of the run is asked for
                    return
                if done.wait(SECONDS_BETWEEN_SIGNS):
                    return

        thread = threading.Thread(target=give_signs)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextmanager
def _log_to(folder: Path) -> Iterator[None]:
    """Write what a run says, and the traceback of its failure, to FOLDER/train.log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "train.log").open("a", encoding="utf-8", buffering=1) as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        try:
            yield
        except (optuna.TrialPruned, Preempted) as error:
            sys.stderr.write(_one_line(error) + "\n")
            raise
        except Exception:
            traceback.print_exc()
            raise


def _values_of(folder: Path, metric: str) -> dict[int, float]:
    """Read what a run was worth after each epoch."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {record["epoch"]: record[metric] for record in records if record["kind"] == "val"}


def _data_of(config: ClsConfig) -> tuple[LabelledImages, LabelledImages]:
    # Held-out images and statistics are matters of a run.
    return _load_once(config.data.model_copy(update={"holdout": 0, "mean": None, "std": None}))


@lru_cache(maxsize=1)
def _load_once(section: ClsDataSection) -> tuple[LabelledImages, LabelledImages]:
    return load_data(ClsConfig(data=section))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
