"""What runs of either task begin with: their folder, precision, processes, and a saved state."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

from sceneparse.errors import InputError, refusing
from sceneparse.models.pretrained import load_strict
from sceneparse.runs.checkpoint import Saved, newest_intact, read_training_state
from sceneparse.runs.folder import (
    create_run_folder,
    is_run_folder,
    validate_changes,
    validate_folder,
)
from sceneparse.runs.lock import RunLock
from sceneparse.runtime.distributed import (
    Process,
    check_on_main,
    from_main,
    launch_name,
    restarted_by_torchrun,
)
from sceneparse.runtime.precision import choose_dtype
from sceneparse.training.loop import Forward
from sceneparse.training.position import Position
from sceneparse.training.run import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """What a run begins with: the lock of its folder, and the checkpoint it goes on from."""

    lock: RunLock
    saved: Saved | None
    overwrite: bool
    accept_changes: bool


def begin_run(
    folder: Path, process: Process, *, resume: bool, overwrite: bool, accept_changes: bool
) -> Beginning:
    """Refuse a folder that may not be used; find the checkpoint to go on from, if asked to.

    A run that has none yet is started. Processes that torchrun started again go on by themselves.
    """
    lock = RunLock(folder)
    if is_run_folder(folder):
        check_on_main(process, lock.acquire)
    if restarted_by_torchrun() and from_main(process, lambda: lock.launch == launch_name()):
        resume, overwrite = True, False
    check_on_main(process, lambda: validate_folder(folder, resume=resume, overwrite=overwrite))
    if not resume:
        return Beginning(lock, None, overwrite, accept_changes)
    saved = from_main(process, lambda: newest_intact(folder, logger.warning))
    if saved is None:
        logger.info(f"'{folder}' has no checkpoint yet; the run starts from the beginning")
    return Beginning(lock, saved, overwrite, accept_changes)


def choose_precision(
    amp: str, saved: Saved | None, process: Process, work: Callable[[], Callable[[], object]]
) -> torch.dtype | None:
    """Choose the type of mixed precision; a resumed run keeps what "auto" once chose.

    `work` makes a training step to be measured, where that is what it depends on.
    """
    if amp != "auto":
        return choose_dtype(amp, process.device)
    if saved is not None:
        return choose_dtype(saved.meta["amp"], process.device)
    return choose_dtype(amp, process.device, work() if process.device.type == "cpu" else None)


def refuse_untrainable(
    model: nn.Module, shape: tuple[int, ...], forward: Forward, *, remedy: str
) -> None:
    """Run the network on shapes alone, to refuse batches (B, 3, H, W) that it cannot train on."""
    shapes = copy.deepcopy(model).to("meta").train()
    try:
        forward(shapes, torch.empty(shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network cannot train on {shape[0]} crops of {shape[2]}x{shape[3]} at once "
            f"({reason}); {remedy}"
        ) from error


def resume_run(training: Training, config: BaseModel, beginning: Beginning) -> None:
    """Take up weights, optimiser and position of the checkpoint that a run goes on from, if any.

    Another configuration is refused, or logged if it is accepted.
    """
    if beginning.saved is None:
        return
    checkpoint, meta = beginning.saved
    changes = validate_changes(
        _as_now(type(config), meta["config"], checkpoint),
        config.model_dump(mode="json"),
        accept=beginning.accept_changes,
    )
    for change in changes:
        logger.info(f"changed: {change}")
    before, now = meta["processes"], training.process.world_size
    if before != now:
        logger.info(
            f"{before} processes before, {now} now: the same samples in the same order, but batch "
            "norms see other groups of them, dropout draws anew and sums round differently"
        )
    state = read_training_state(checkpoint)
    with refusing(checkpoint, "its training state does not fit this run"):
        load_strict(training.model, state["model"], str(checkpoint))
        training.stepper.load_state_dict(state["stepper"])
        position = TypeAdapter(Position).validate_python(state["position"])
        if not training.holds(position):
            raise ValueError(f"{position} is outside of the run")
        vars(training.position).update(vars(position))
    logger.info(f"resuming from {checkpoint} after step {training.steps_done}")


def create_folder(training: Training, config: str, beginning: Beginning) -> None:
    """Create the folder of a run that is ready to train, or take over the one that is there."""
    check_on_main(
        training.process,
        lambda: create_run_folder(
            training.folder,
            config,
            beginning.lock,
            launch=launch_name(),
            steps_done=training.steps_done,
            overwrite=beginning.overwrite,
        ),
    )


def _as_now(kind: type[BaseModel], saved: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Fill in the settings that have been added since a checkpoint was written."""
    try:
        return kind.model_validate(saved).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(
            f"{checkpoint} is of another version: {error.error_count()} settings do not fit"
        ) from error
