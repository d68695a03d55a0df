"""Start or resume a run of either task: folder, precision, checks, saved state."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

import sceneparse
from sceneparse.errors import InputError, reason_of, refusing
from sceneparse.inference.normalization import Normalization
from sceneparse.models.licences import check_licence
from sceneparse.models.origin import Origin, origin_of, recorded_origin
from sceneparse.models.weights import load_strict
from sceneparse.runs.checkpoint import Saved, newest_intact, read_training_state
from sceneparse.runs.folder import (
    create_run_folder,
    is_run_folder,
    validate_changes,
    validate_folder,
)
from sceneparse.runs.lock import RunLock
from sceneparse.runtime.distributed import Process, from_main, launch_name, restarted_by_torchrun
from sceneparse.runtime.memory import keep_freed_memory
from sceneparse.runtime.precision import Compute, amp_name, auto_dtype, choose_dtype
from sceneparse.runtime.shell import quoted
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.loop import Forward
from sceneparse.training.position import Position

if TYPE_CHECKING:
    from sceneparse.training.run import Training

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Start:
    """A run's folder, process and precision, its checkpoint if any, and what the user allowed."""

    folder: Path
    process: Process
    lock: RunLock
    compute: Compute
    saved: Saved | None
    overwrite: bool
    accept_changes: bool
    licences: str
    stop: StopRequest = field(default_factory=StopRequest)


def begin_run(  # noqa: PLR0913 - keyword-only settings
    folder: Path,
    process: Process,
    amp: str,
    channels_last: bool,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accept_changes: bool = False,
    licences: str = "warn",
) -> Start:
    """Check that the folder may be used, and find the newest checkpoint if `resume` is set.

    `licences`: what to do about pretrained weights, see `check_licence`.
    A run without a checkpoint starts from the beginning. Processes that torchrun restarted resume
    by themselves. Raises InputError; nothing is written to a folder that is not a run's.
    """
    if process.device.type == "cpu":
        keep_freed_memory()
    lock = RunLock(folder)
    if is_run_folder(folder):
        from_main(process, lock.acquire)
    with lock.released_on_error():
        if restarted_by_torchrun() and from_main(process, lambda: lock.launch == launch_name()):
            resume, overwrite = True, False
        from_main(process, lambda: validate_folder(folder, resume=resume, overwrite=overwrite))
        saved = from_main(process, lambda: newest_intact(folder)) if resume else None
        compute = _choose_compute(amp, process.device, saved, channels_last)
    if resume and saved is None:
        logger.info(f"'{folder}' has no checkpoint yet; the run starts from the beginning")
    return Start(
        folder=folder,
        process=process,
        lock=lock,
        compute=compute,
        saved=saved,
        overwrite=overwrite,
        accept_changes=accept_changes,
        licences=licences,
    )


def _choose_compute(
    amp: str, device: torch.device, saved: Saved | None, channels_last: bool
) -> Compute:
    """Choose the precision and log it with its reason; "auto" keeps that of a resumed run."""
    reason = f"train.amp={amp}"
    if amp == "auto" and saved is not None:
        amp, reason = saved.meta["amp"], "as the run began"
    dtype, reason = auto_dtype(device) if amp == "auto" else (choose_dtype(amp, device), reason)
    compute = Compute(device, dtype, channels_last)
    logger.info(f"precision: {compute.name} ({reason})")
    if channels_last and compute.memory_format != torch.channels_last:
        logger.info(f"layout: contiguous, since channels_last is not reliable on {device.type}")
    return compute


def validate_inputs(
    model: nn.Module, shape: tuple[int, ...], forward: Forward, *, remedy: str
) -> None:
    """Run the network on shapes alone; raise InputError if it cannot train on (B, 3, H, W)."""
    shapes = copy.deepcopy(model).to("meta").train()
    try:
        forward(shapes, torch.empty(shape, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"the network cannot train on {shape[0]} crops of {shape[2]}x{shape[3]} at once "
            f"({reason_of(error)}); {remedy}"
        ) from error


def checked_origin(
    start: Start, arguments: Mapping[str, Any], pretrained: str | None
) -> Origin | None:
    """Return which weights the run starts from, or started from; log their licence.

    `arguments`: those of the model. Raises InputError, also if --licences forbids the weights.
    """
    source: object = pretrained
    if start.saved is None:
        origin = origin_of(arguments, pretrained)
    else:
        source = start.saved.folder
        origin = recorded_origin(start.saved.meta, start.saved.folder)
    check_licence(origin, source, start.licences, output_stride=arguments.get("output_stride", 32))
    return origin


def describe_run(
    settings: Mapping[str, Any], normalize: Normalization, compute: Compute
) -> dict[str, Any]:
    """Return what checkpoints store of a run: settings, normalisation, precision and versions."""
    return {
        "mean": normalize.mean,
        "std": normalize.std,
        "amp": amp_name(compute.dtype),
        "config": settings,
        "versions": {"sceneparse": sceneparse.__version__, "torch": torch.__version__},
    }


def open_run(training: Training, config: BaseModel, rendered: str) -> None:
    """Load the saved state if the run is resumed; then create the folder, or take over its own.

    `rendered` is the configuration as YAML. Raises InputError before anything is written.
    """
    settings = config.model_dump(mode="json")
    training.meta |= describe_run(settings, training.normalize, training.compute)
    if training.saved is not None:
        try:  # adds the settings that did not exist yet when the checkpoint was written
            before = type(config).model_validate(training.saved.meta["config"])
        except ValidationError as error:
            raise InputError(
                f"{training.saved.folder} is of another version: {error.error_count()} settings do "
                "not fit"
            ) from error
        saved_settings = before.model_dump(mode="json")
        changes = validate_changes(saved_settings, settings, accept=training.accept_changes)
        for change in changes:
            logger.info(f"changed: {change}")
        _load_state(training, training.saved)
        if changes and training.finished and training.position.replans:
            logger.warning(
                f"the run ended after epoch {training.last_epoch}, and its learning rate with it, "
                f"so it trains no further; start another with "
                f"{quoted(f'model.pretrained={training.folder}')}"
            )
    from_main(
        training.process,
        lambda: create_run_folder(
            training.folder,
            rendered,
            training.lock,
            launch=launch_name(),
            steps_done=training.steps_done,
            overwrite=training.overwrite,
        ),
    )


def _load_state(training: Training, saved: Saved) -> None:
    """Load weights, optimiser and position of a checkpoint; raises InputError if one misfits."""
    checkpoint, before, now = saved.folder, saved.meta["processes"], training.process.world_size
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
        if not (
            0 <= position.epoch <= training.epochs
            and 0 <= position.step <= training.sampler.steps_per_epoch
            and 0 <= position.seconds < math.inf
            and 0 <= position.used < math.inf
            and all(0 <= seconds < math.inf for seconds in vars(position.pace).values())
        ):
            raise ValueError(f"{position} is outside of the run")
        # Earlier versions did not add up the time of validations.
        position.used = max(position.used, position.seconds)
        vars(training.position).update(vars(position))
    logger.info(f"resuming from {checkpoint} after step {training.steps_done}")
