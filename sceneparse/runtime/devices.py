"""Devices: choose one by its name or find the best, and what each type of device can do."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from sceneparse.errors import InputError

# The best first. mps: the GPU of a Mac, which PyTorch uses through Metal.
DEVICE_TYPES = ("cuda", "mps", "cpu")
_NAME = re.compile(r"cpu|mps(:0)?|cuda(:\d+)?")


def choose_device(name: str | None = None, types: Sequence[str] = DEVICE_TYPES) -> torch.device:
    """Return the device of a name; None: the best one there is.

    Names: cpu, cuda, cuda:NUMBER and mps. `types`: those that the network runs on. Raises
    InputError, with what there is, for an unknown name and for a device that is missing.
    """
    if name is None:
        name = next(kind for kind in DEVICE_TYPES if kind in types and _lacking(kind) is None)
    kind, _, number = name.partition(":")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"unknown device '{name}'; use cpu, cuda, cuda:NUMBER or mps (there is {_found()})"
        )
    if kind not in types:
        raise InputError(f"this network runs on {' and '.join(types)} only, not on '{name}'")
    if reason := _lacking(kind, int(number or 0)):
        raise InputError(f"there is no GPU '{name}' that PyTorch can use: {reason}; use {_found()}")
    if kind == "mps":
        number = "0"  # which tensors on mps tell too
    return torch.device(kind, int(number)) if number else torch.device(kind)


def _lacking(kind: str, number: int = 0) -> str | None:
    """Return why there is no device of a type and number; None if there is one."""
    if kind == "cuda":
        count = _count_gpus()
        built = "" if torch.version.cuda or torch.version.hip else "PyTorch is built without CUDA, "
        return None if number < count else f"{built}{count} found"
    if kind == "mps" and not torch.backends.mps.is_available():
        if not torch.backends.mps.is_built():
            return "PyTorch is built without mps, which only its builds for macOS have"
        return "mps needs macOS 12.3 or newer and an Apple GPU"
    return None


def _count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _found() -> str:
    """Return the names of the devices that there are, the best first."""
    names = [f"cuda:{number}" for number in range(_count_gpus())]
    names += [] if _lacking("mps") else ["mps"]
    return " or ".join([*names, "cpu"])


def counting_device(device: torch.device) -> torch.device:
    """Return where counts and sums in float64 are kept: on the device itself, for mps on the CPU.

    Metal has no float64.
    """
    return torch.device("cpu") if device.type == "mps" else device


def as_float64(values: Tensor) -> Tensor:
    """Return values in float64, on the counting device of their own device."""
    return values.to(counting_device(values.device)).double()


def lack_of_type(dtype: torch.dtype | None, device: torch.device) -> str | None:
    """Return what a type of mixed precision needs and the device lacks; None: nothing."""
    if dtype == torch.float16 and device.type == "cpu":
        return "needs a GPU"
    if dtype == torch.bfloat16 and device.type == "mps":
        return None if torch.backends.mps.is_macos_or_newer(14, 0) else "needs macOS 14 or newer"
    return None


def validate_compile(device: torch.device) -> None:
    """Raise InputError on mps, where compiled networks can compute something else.

    PyTorch issue 191976: wrong layer norms, without a warning.
    """
    if device.type == "mps":
        raise InputError(
            "torch.compile is not reliable on mps; omit compile, or choose the device cpu"
        )


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything that was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Let `peak_bytes` forget what was before; mps has no such record."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Return the most bytes in use on a GPU since `reset_peak`; None on a CPU.

    On mps: what the driver holds for this process now, which only grows while it trains.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else None
