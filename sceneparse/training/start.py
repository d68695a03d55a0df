"""What runs of both tasks share before the first step: folder, precision, checks, saved state."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

import sceneparse
from sceneparse.errors import InputError, refusing
from sceneparse.inference.normalization import Normalization
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
from sceneparse.runtime.precision import Compute, amp_name, auto_dtype, choose_dtype
from sceneparse.training.loop import Forward
from sceneparse.training.position import Position
from sceneparse.training.run import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """How a run starts: where, from which checkpoint if any, and what the user allowed."""

    folder: Path
    process: Process
    lock: RunLock
    saved: Saved | None
    overwrite: bool
    accept_changes: bool


def begin_run(
    folder: Path, process: Process, *, resume: bool, overwrite: bool, accept_changes: bool
) -> Start:
    """Check that the folder may be used, and find the newest checkpoint if `resume` is set.

    A run without a checkpoint starts from the beginning. Processes that torchrun restarted resume
    by themselves. Raises InputError; nothing is written to a folder that is not a run's.
    """
    lock = RunLock(folder)
    if is_run_folder(folder):
        check_on_main(process, lock.acquire)
    if restarted_by_torchrun() and from_main(process, lambda: lock.launch == launch_name()):
        resume, overwrite = True, False
    check_on_main(process, lambda: validate_folder(folder, resume=resume, overwrite=overwrite))
    if not resume:
        return Start(folder, process, lock, None, overwrite, accept_changes)
    saved = from_main(process, lambda: newest_intact(folder, logger.warning))
    if saved is None:
        logger.info(f"'{folder}' has no checkpoint yet; the run starts from the beginning")
    return Start(folder, process, lock, saved, overwrite, accept_changes)


def choose_compute(amp: str, start: Start, *, channels_last: bool) -> Compute:
    """Choose precision and memory layout, and log the precision with its reason.

    A resumed run keeps what "auto" chose at its start. Raises InputError.
    """
    device, reason = start.process.device, f"train.amp={amp}"
    if amp == "auto" and start.saved is not None:
        amp, reason = start.saved.meta["amp"], "as the run began"
    elif amp == "auto":
        _, reason = auto_dtype(device)
    compute = Compute(device, choose_dtype(amp, device), channels_last)
    logger.info(f"precision: {compute.name} ({reason})")
    return compute


def validate_inputs(
    model: nn.Module, shape: tuple[int, ...], forward: Forward, *, remedy: str
) -> None:
    """Run the network on shapes alone; raise InputError if it cannot train on (B, 3, H, W)."""
    shapes = copy.deepcopy(model).to("meta").train()
    try:
        forward(shapes, torch.empty(shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network cannot train on {shape[0]} crops of {shape[2]}x{shape[3]} at once "
            f"({reason}); {remedy}"
        ) from error


def describe_run(
    task: str, config: BaseModel, compute: Compute, normalize: Normalization
) -> dict[str, Any]:
    """Return what the checkpoints of both tasks know of their run."""
    return {
        "task": task,
        "mean": normalize.mean,
        "std": normalize.std,
        "amp": amp_name(compute.dtype),
        "config": config.model_dump(mode="json"),
        "versions": {"sceneparse": sceneparse.__version__, "torch": torch.__version__},
    }


def open_run(training: Training, start: Start, config: BaseModel, rendered: str) -> None:
    """Load the saved state if the run is resumed; then create the folder, or take over its own.

    `rendered` is the configuration as YAML. Raises InputError before anything is written.
    """
    if start.saved is not None:
        _resume(training, start.saved, config, accept_changes=start.accept_changes)
    check_on_main(
        training.process,
        lambda: create_run_folder(
            training.folder,
            rendered,
            start.lock,
            launch=launch_name(),
            steps_done=training.steps_done,
            overwrite=start.overwrite,
        ),
    )


def _resume(training: Training, saved: Saved, config: BaseModel, *, accept_changes: bool) -> None:
    """Load weights, optimiser and position of a checkpoint; log what differs from its run."""
    checkpoint, meta = saved
    changes = validate_changes(
        _complete(type(config), meta["config"], checkpoint),
        config.model_dump(mode="json"),
        accept=accept_changes,
    )
    for change in changes:
        logger.info(f"changed: {change}")
    before, now = meta["processes"], training.process.world_size
    if before != now:
        logger.info(
            f"{before} processes before, {now} now: the same samples in the same order, but batch "
            "norms see other groups of them, dropout differs and sums round differently"
        )
    state = read_training_state(checkpoint)
    with refusing(checkpoint, "its training state does not fit this run"):
        load_strict(training.model, state["model"], str(checkpoint))
        training.stepper.load_state_dict(state["stepper"])
        position = TypeAdapter(Position).validate_python(state["position"])
        if not training.contains(position):
            raise ValueError(f"{position} is outside of the run")
        vars(training.position).update(vars(position))
    logger.info(f"resuming from {checkpoint} after step {training.steps_done}")


def _complete(kind: type[BaseModel], saved: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Add the settings that did not exist yet when a checkpoint was written."""
    try:
        return kind.model_validate(saved).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(
            f"{checkpoint} is of another version: {error.error_count()} settings do not fit"
        ) from error
