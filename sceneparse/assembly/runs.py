"""What runs of either task begin with: their folder, precision, processes, and a saved state."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sceneparse.checkpoint import read_meta, read_training_state, resolve_checkpoint
from sceneparse.config.types import Section
from sceneparse.distributed import Process, check_on_main
from sceneparse.errors import InputError, refusing
from sceneparse.models.pretrained import load_strict
from sceneparse.precision import choose_dtype
from sceneparse.run_folder import refuse_changed_settings, refuse_existing_run
from sceneparse.training import Position, Training


def begin_run(
    folder: Path, process: Process, *, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Refuse a folder that may not be used; return what its last checkpoint knows, to resume."""
    check_on_main(process, lambda: refuse_existing_run(folder, resume=resume, overwrite=overwrite))
    return read_meta(resolve_checkpoint(folder, prefer="last")) if resume else None


def choose_precision(
    amp: str, saved: dict[str, Any] | None, process: Process
) -> torch.dtype | None:
    """Choose the type of mixed precision; a resumed run keeps what "auto" once chose."""
    return choose_dtype(saved["amp"] if saved and amp == "auto" else amp, process.device)


def parallel_network(model: nn.Module, process: Process) -> nn.Module:
    """Let several processes share the gradients of a network."""
    if process.world_size == 1:
        return model
    if process.device.type == "cuda":
        return DistributedDataParallel(model, device_ids=[process.device.index])
    return DistributedDataParallel(model)


def resume_run(
    training: Training, config: Section, saved: dict[str, Any], say: Callable[[str], None]
) -> None:
    """Take up weights, optimiser and position of a checkpoint; refuse another configuration."""
    checkpoint = resolve_checkpoint(training.folder, prefer="last")
    refuse_changed_settings(
        _as_now(type(config), saved["config"], checkpoint), config.model_dump(mode="json")
    )
    state = read_training_state(checkpoint)
    with refusing(checkpoint, "its training state does not fit this run"):
        load_strict(training.model, state["model"], str(checkpoint))
        training.stepper.load_state_dict(state["stepper"])
        position = TypeAdapter(Position).validate_python(state["position"])
        if not training.holds(position):
            raise ValueError(f"{position} is outside of the run")
        vars(training.position).update(vars(position))
    say(f"going on from {checkpoint} after step {training.steps_done}")


def _as_now(kind: type[Section], saved: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Fill in the settings that have been added since a checkpoint was written."""
    try:
        return kind.model_validate(saved).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(
            f"{checkpoint} is of another version: {error.error_count()} settings do not fit"
        ) from error


def say_on_main(process: Process, text: str) -> None:
    """Print a line, once for all processes."""
    if process.is_main:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
