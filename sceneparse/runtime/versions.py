"""Versions, processor and GPU, for bug reports and measurements."""

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

import sceneparse
from sceneparse.runtime.threads import usable_cores


def version_rows() -> dict[str, str]:
    """Return the installed versions and the platform, by name."""
    return {
        "sceneparse": sceneparse.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def provenance(device: torch.device) -> dict[str, str]:
    """Return the commit of this code, the machine, the version of PyTorch and the date."""
    return {
        "commit": _commit(),
        "machine": describe_device(device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def _commit() -> str:
    """Return the commit, marked "-dirty" if files differ from it; the release if there is none."""
    described = _printed_by("git", "describe", "--always", "--dirty", "--exclude=*")
    return f"release {sceneparse.__version__}" if described is None else described


def _printed_by(*command: str) -> str | None:
    """Return what a command prints in the folder of this file; None if it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - a constant command
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe_device(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor and the number of threads.

    It ends with "on 2 of 64 cores" if affinity or a container's limit withholds cores.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        chip = _printed_by("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")  # Apple M2 Pro
        return f"{'Apple' if chip is None else chip}, GPU"
    threads = torch.get_num_threads()
    info = Path("/proc/cpuinfo")  # on Linux only
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    names += [platform.processor(), platform.machine()]
    usable, cores = usable_cores(), os.cpu_count() or 1
    part = f" on {usable} of {cores} cores" if usable < cores else ""
    return f"{next(filter(None, names))}, {threads} thread{'s' * (threads > 1)}{part}"
