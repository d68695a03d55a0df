"""Create run folders, and check whether a run may use, resume or overwrite one."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sceneparse.errors import InputError, first_few
from sceneparse.files import files_of_users
from sceneparse.runs.atomic import replace_text
from sceneparse.runs.lock import LOCK_FILE, RunLock
from sceneparse.runs.log import drop_records_after

# Settings that a resumed run may change: they do not affect what is computed. A device rounds in
# its own way, but a run that was begun on one may go on where that device is missing.
_FREE_SETTINGS = {
    *("output", "train.save_every", "train.most_bad_steps", "train.device"),
    *(f"data.{name}" for name in ("root", "cache", "workers", "timeout", "check")),
}
# Settings and sections that make it another run: sample order, network, optimiser state.
_FIXED_SETTINGS = {
    *("seed", "seeds", "data", "model", "attention", "stem", "pretrained"),
    *("train.batch_size", "train.steps_per_epoch", "train.ema", "optim.name"),
}

# Numbers that earlier versions wrote for settings that are null now; a resumed run keeps them.
_FORMER_DEFAULTS = {"data.mean": [0.485, 0.456, 0.406], "data.std": [0.229, 0.224, 0.225]}


def is_run_folder(folder: Path) -> bool:
    """Return whether a run was started in a folder, even one that was killed at once."""
    started = (folder / LOCK_FILE).is_file()
    return started or all((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl"))


def validate_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise InputError unless the folder is empty, or holds a run to resume or overwrite."""
    if not folder.exists() or (folder.is_dir() and not files_of_users(folder)):
        return
    if not is_run_folder(folder):
        raise InputError(
            f"'{folder}' exists and is not a run folder; choose another one with output=FOLDER"
        )
    if not (resume or overwrite):
        raise InputError(
            f"'{folder}' holds a run; resume it with --resume, start over with --overwrite, or "
            "choose another folder with output=FOLDER"
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted keys; an empty section has none."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe the settings that differ, except those that do not affect what is computed."""
    before, after = flat(saved), flat(now)
    return [
        f"{key} was {before.get(key, 'not set')}, is {after.get(key, 'not set')}"
        for key in {**before, **after}
        if key not in _FREE_SETTINGS
        and before.get(key) != after.get(key)
        and not (after.get(key) is None and before.get(key) == _FORMER_DEFAULTS.get(key))
    ]


def validate_changes(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, accept: bool
) -> list[str]:
    """Return the changed settings of a resumed run.

    Raises InputError if there are any and `accept` is false, or if they make it another run.
    """
    changed = changed_settings(saved, now)
    # The key and its section, for example "data.mean" and "data".
    fixed = [c for c in changed if {c.split()[0], re.split(r"[. ]", c)[0]} & _FIXED_SETTINGS]
    if fixed:
        raise InputError(
            f"this is another run: {first_few(fixed)}; resume with the same settings, or start it "
            "with output=FOLDER"
        )
    if changed and not accept:
        raise InputError(
            f"the configuration differs from the run's: {first_few(changed)}; resume with the same "
            "settings or with --accept-changes, or start another run with output=FOLDER"
        )
    return changed


def create_run_folder(
    folder: Path,
    config: str,
    lock: RunLock,
    *,
    launch: str | None,
    steps_done: int,
    overwrite: bool,
) -> None:
    """Lock the folder, write config.yaml and drop the records of steps that will be repeated.

    `config`: the resolved configuration as YAML. `launch`: see RunLock.sign. Raises InputError if
    the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        for path in folder.iterdir() if overwrite else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif not path.name.startswith(LOCK_FILE):  # which is held
                path.unlink()
        lock.sign(launch)
        (folder / "pictures").mkdir(exist_ok=True)
        replace_text(folder / "config.yaml", config)
        drop_records_after(folder / "metrics.jsonl", steps_done)
    except OSError as error:
        raise InputError(
            f"cannot write the run folder '{folder}': {error.strerror}; choose another one with "
            "output=FOLDER"
        ) from error
