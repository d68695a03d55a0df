"""The study behind a sweep: which trials wait, who may take them, and what became of each.

Every trial is planned before the first one starts, as a waiting attempt in Optuna's queue. A trial
whose worker was killed or stopped gets another attempt at the end of the queue, which goes on in
the same folder. Machines that plan the same attempt at the same moment do no harm: of equal
attempts the first one counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from sceneparse.errors import InputError, first_few
from sceneparse.runs.folder import changed_settings
from sceneparse.sweep.plan import Params, Plan

MOST_KILLS = 3
SECONDS_BETWEEN_SIGNS = 10
# Looks at the study, a second apart, at which a worker gave no sign of life before it counts as
# dead. Looks, and not seconds: a machine that was suspended has not seen its workers die.
SILENT_LOOKS = 60

_OWN_FILES = ("trial-*", "sweep.*", "journal.log*", "*.png", "*.svg")

# The attempts at each trial, in their order; the last one says what became of the trial.
Attempts = dict[int, list[FrozenTrial]]


def refuse_foreign_folder(folder: Path) -> None:
    """Raise InputError where a folder holds something else than a sweep."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file; choose another folder with output=FOLDER")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    foreign = [name for name in names if not any(fnmatch(name, own) for own in _OWN_FILES)]
    if foreign:
        raise InputError(
            f"'{folder}' holds more than a sweep ({first_few(sorted(foreign))}); choose another "
            "folder with output=FOLDER"
        )


def open_study(plan: Plan, storage: BaseStorage) -> Study:
    """Create the study, or open it to go on, and plan the trials it lacks; raises InputError."""
    study = None
    if plan.name not in optuna.study.get_all_study_names(storage):
        study = _create_study(plan, storage)
    if study is None:
        study = join_study(plan, storage)
        _refuse_another_plan(plan, study)
    known = attempts_of(study)
    if len(known) > plan.trials:
        raise InputError(
            f"the study '{plan.name}' has {len(known)} trials already; give as many by --trials or "
            "run_cap, or more"
        )
    for trial, params in enumerate(plan.starts()):
        if trial not in known:
            plan_attempt(study, trial, params)
    return study


def _create_study(plan: Plan, storage: BaseStorage) -> Study | None:
    """Create the study; None where another machine has just done it."""
    if any(plan.output.glob("trial-*")):
        raise InputError(
            f"'{plan.output}' holds the trials of another sweep; choose another folder with "
            "output=FOLDER"
        )
    try:
        study = optuna.create_study(storage=storage, study_name=plan.name, direction=plan.direction)
    except DuplicatedStudyError:
        return None
    study.set_user_attr("plan", plan.description())
    return study


def join_study(plan: Plan, storage: BaseStorage) -> Study:
    """Open a study that is there."""
    return optuna.load_study(study_name=plan.name, storage=storage, pruner=_pruner(plan))


def _pruner(plan: Plan) -> BasePruner:
    early = plan.early
    if early is None:
        return NopPruner()
    if early.type == "median":
        return MedianPruner(n_warmup_steps=early.min_iter)
    return HyperbandPruner(early.min_iter, early.max_iter or plan.epochs, early.eta)


def _refuse_another_plan(plan: Plan, study: Study) -> None:
    for _ in range(20):
        saved = study.user_attrs.get("plan")
        if saved is not None:
            break
        time.sleep(0.5)  # another machine is creating it just now
    else:
        raise InputError(f"the study '{plan.name}' is not of tools/sweep_cls.py; choose a name")
    changed = changed_settings(saved, plan.description())
    if changed:
        raise InputError(
            f"the study '{plan.name}' is of another sweep: {first_few(changed)}; go on with the "
            "same settings, or begin another sweep with a new name and output=FOLDER"
        )


def attempts_of(study: Study) -> Attempts:
    """Return the attempts that count, for each trial that is planned."""
    found: dict[int, dict[int, FrozenTrial]] = {}
    for attempt in study.get_trials(deepcopy=False):
        attrs = attempt.user_attrs
        if "trial" in attrs:
            found.setdefault(attrs["trial"], {}).setdefault(attrs["attempt"], attempt)
    return {trial: [of[number] for number in sorted(of)] for trial, of in sorted(found.items())}


def in_state(attempts: Attempts, *states: TrialState) -> list[FrozenTrial]:
    """Return the last attempts that are in one of the states."""
    return [of[-1] for of in attempts.values() if of[-1].state in states]


def take(study: Study, worker: str) -> Trial | None:
    """Take the next waiting attempt; None where another one has been faster, or it is a double."""
    taken = study.ask()
    attrs = taken.user_attrs
    if "trial" in attrs:
        counting = attempts_of(study)[attrs["trial"]][attrs["attempt"]]
        if counting.number == taken.number:
            taken.set_user_attr("worker", worker)
            return taken
    study.tell(taken, state=TrialState.FAIL)
    return None


def suggest(taken: Trial, space: Mapping[str, BaseDistribution]) -> Params:
    """Let the sampler choose what the plan of the attempt leaves open."""
    params: Params = {}
    for key, d in space.items():
        if isinstance(d, CategoricalDistribution):
            params[key] = taken.suggest_categorical(key, d.choices)
        elif isinstance(d, FloatDistribution):
            params[key] = taken.suggest_float(key, d.low, d.high, step=d.step, log=d.log)
        elif isinstance(d, IntDistribution):
            params[key] = taken.suggest_int(key, d.low, d.high, step=d.step, log=d.log)
    return params


def plan_attempt(
    study: Study, trial: int, start: Params, *, attempt: int = 0, kills: int = 0
) -> None:
    """Let an attempt at a trial wait; `start` is what of its parameters is settled."""
    attrs = {"trial": trial, "attempt": attempt, "kills": kills, "start": start}
    study.enqueue_trial(start, attrs)


def put_back(study: Study, attempt: FrozenTrial, *, killed: bool) -> None:
    """End a running attempt and plan another one, unless its workers were killed too often."""
    attrs = attempt.user_attrs
    now = attempts_of(study)[attrs["trial"]][attrs["attempt"]]
    if now.state != TrialState.RUNNING:  # it ended after all, or another machine was faster
        return
    kills = attrs["kills"] + killed
    # Planned before the old one is ended: whoever is killed in between leaves a double behind, not
    # a gap.
    if kills <= MOST_KILLS:
        start = {**attrs["start"], **now.params}
        following = attrs["attempt"] + 1
        plan_attempt(study, attrs["trial"], start, attempt=following, kills=kills)
    study.tell(attempt.number, state=TrialState.FAIL, skip_if_finished=True)


class Watch:
    """Notices workers that fell silent, wherever they run."""

    def __init__(self) -> None:
        self._looks: dict[tuple[int, Any], int] = {}

    def silent(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Look at the running attempts once; return those whose workers count as dead."""
        signs = {(attempt.number, attempt.user_attrs.get("sign")): attempt for attempt in running}
        self._looks = {sign: self._looks.get(sign, 0) + 1 for sign in signs}
        return [attempt for sign, attempt in signs.items() if self._looks[sign] > SILENT_LOOKS]
