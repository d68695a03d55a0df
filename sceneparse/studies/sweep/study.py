"""The study behind a sweep: which trials wait, and what became of each.

Every trial is queued before the first one starts. A trial whose worker was killed or stopped gets
another attempt at the end of the queue, which resumes in the same folder.
"""

from __future__ import annotations

import time
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sceneparse.errors import InputError, first_few
from sceneparse.runs.folder import changed_settings
from sceneparse.studies.sweep.plan import Plan
from sceneparse.studies.sweep.search import PRUNERS
from sceneparse.studies.sweep.storage import retries_of, retry

_OLD_JOURNAL = "journal.log"
_OWN_FILES = ("trial-*", "sweep.*", "*.png", "*.svg", _OLD_JOURNAL)

# The attempts at each trial, in their order; the last one says what became of the trial.
Attempts = dict[int, list[FrozenTrial]]


def refuse_foreign_folder(folder: Path) -> None:
    """Raise InputError if a folder holds something else than a sweep of this version."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file; choose another folder with output=FOLDER")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    foreign = [name for name in names if not any(fnmatch(name, own) for own in _OWN_FILES)]
    if foreign:
        raise InputError(
            f"'{folder}' holds more than a sweep ({first_few(sorted(foreign))}); choose another "
            "folder with output=FOLDER"
        )
    if _OLD_JOURNAL in names:
        raise InputError(
            f"'{folder}' holds a sweep of an earlier version of sceneparse ({_OLD_JOURNAL}); "
            "finish it with that version, or start a new one with output=FOLDER"
        )


def open_study(plan: Plan, storage: BaseStorage) -> Study:
    """Create the study or open it to resume, and queue what it lacks; raises InputError."""
    if plan.name not in optuna.study.get_all_study_names(storage):
        _create_study(plan, storage)
    study = join_study(plan, storage)
    _refuse_another_plan(plan, study)
    known = attempts_of(study)
    if len(known) > plan.trials:
        raise InputError(
            f"the study '{plan.name}' has {len(known)} trials already; give as many by --trials or "
            "run_cap, or more"
        )
    # A trial that failed without an error: a command was killed before it queued it again.
    for attempt in in_state(known, TrialState.FAIL):
        if "error" not in attempt.user_attrs:
            retry(study, attempt, "")
    for trial, params in enumerate(plan.starts()):
        if trial not in known:
            study.enqueue_trial(params, {"trial": trial})
    return study


def _create_study(plan: Plan, storage: BaseStorage) -> None:
    if any(plan.output.glob("trial-*")):
        raise InputError(
            f"'{plan.output}' holds the trials of another sweep; choose another folder with "
            "output=FOLDER"
        )
    with suppress(DuplicatedStudyError):  # another machine has just created it
        study = optuna.create_study(storage=storage, study_name=plan.name, direction=plan.direction)
        study.set_user_attr("plan", plan.description())


def join_study(plan: Plan, storage: BaseStorage) -> Study:
    """Open an existing study, with the rule that ends its trials early."""
    early = plan.early
    pruner: BasePruner = NopPruner()
    if early is not None:
        pruner = PRUNERS[early.type](early.min_iter, early.max_iter or plan.epochs, early.eta)
    return optuna.load_study(study_name=plan.name, storage=storage, pruner=pruner)


def _refuse_another_plan(plan: Plan, study: Study) -> None:
    saved, patience = study.user_attrs.get("plan"), 20
    while saved is None and patience:  # another machine is just creating it
        time.sleep(0.5)
        saved, patience = study.user_attrs.get("plan"), patience - 1
    if saved is None:
        raise InputError(f"the study '{plan.name}' is not a sweep of sceneparse; choose a name")
    if changed := changed_settings(saved, plan.description()):
        raise InputError(
            f"the study '{plan.name}' is of another sweep: {first_few(changed)}; resume with the "
            "same settings, or start another sweep with a new name and output=FOLDER"
        )


def attempts_of(study: Study) -> Attempts:
    """Return the attempts at each trial that is planned, the first one and the retries.

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
