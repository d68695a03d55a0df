"""The folder of a run: when it may be used, what a resumed run may change, what it starts with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sceneparse.errors import InputError, first_few
from sceneparse.runs.atomic import replace_text
from sceneparse.runs.lock import LOCK_FILE, RunLock
from sceneparse.runs.log import forget_records_after

# Settings that a resumed run may change: they do not say what is computed.
_FREE_SETTINGS = (
    "output",
    "data.root",
    "data.cache",
    "data.workers",
    "data.timeout",
    "data.check",
    "train.save_every",
    "train.most_bad_steps",
)
# Settings that make it another run: samples and their order, network, the optimiser's state.
_FIXED_SETTINGS = (
    "seed",
    "seeds",
    "data",
    "model",
    "attention",
    "stem",
    "train.batch_size",
    "train.ema",
    "optim.name",
)


def is_run_folder(folder: Path) -> bool:
    """Whether a run has begun in a folder, even one that was killed at once."""
    begun = (folder / LOCK_FILE).is_file()
    return begun or ((folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file())


def refuse_existing_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise InputError unless the folder is new, or what the user asked for is possible in it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_run_folder(folder):
        raise InputError(
            f"'{folder}' exists and is not a run folder; choose another one with output=FOLDER"
        )
    if not (resume or overwrite):
        raise InputError(
            f"'{folder}' holds a run; go on with --resume, start anew with --overwrite, or choose "
            "another folder with output=FOLDER"
        )


def refuse_changed_settings(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, accept: bool
) -> list[str]:
    """Raise InputError where a resumed run would compute something else than it began with.

    `accept` lets it, but for what would make it another run; the changes are returned, to be said.
    """
    changed = changed_settings(saved, now)
    if not changed:
        return []
    fixed = [change for change in changed if _is_fixed(change.split()[0])]
    if fixed:
        raise InputError(
            f"this is another run: {first_few(fixed)}; go on with the same settings, or start it "
            "with output=FOLDER"
        )
    if not accept:
        raise InputError(
            f"the configuration differs from the run's: {first_few(changed)}; go on with the same "
            "settings, with --accept-changes, or start another run with output=FOLDER"
        )
    return changed


def _is_fixed(key: str) -> bool:
    return any(key == fixed or key.startswith(f"{fixed}.") for fixed in _FIXED_SETTINGS)


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the settings that differ, but for those that only say where things are."""
    before, after = flat(saved), flat(now)
    return [
        f"{key} was {before.get(key)}, is {after.get(key)}"
        for key in {**before, **after}
        if key not in _FREE_SETTINGS and before.get(key) != after.get(key)
    ]


def create_run_folder(
    folder: Path,
    config: str,
    lock: RunLock,
    *,
    launch: str | None,
    steps_done: int,
    overwrite: bool,
) -> None:
    """Lock the folder and write the resolved configuration; forget what will be done again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if overwrite:
            _empty(folder)
        lock.sign(launch)
        (folder / "pictures").mkdir(exist_ok=True)
        replace_text(folder / "config.yaml", config)
        forget_records_after(folder / "metrics.jsonl", steps_done)
    except OSError as error:
        raise InputError(f"cannot write the run folder '{folder}': {error.strerror}") from error


def _empty(folder: Path) -> None:
    """Remove everything but the lock, which is held."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values by their dotted keys; an empty section is a value."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values
