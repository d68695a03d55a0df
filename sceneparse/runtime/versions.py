"""What figures depend on: versions, processor, GPU; for bug reports and measurements."""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

import sceneparse


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
    """Return what produced a figure: commit of this code, machine, version of PyTorch, date."""
    return {
        "commit": _commit(),
        "machine": describe_device(device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def _commit() -> str:
    """Return the commit, marked "-dirty" if files differ from it; the release if there is none."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603 - a constant command
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return f"release {sceneparse.__version__}"
    return done.stdout.strip()


def describe_device(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _processor() -> str:
    """Return the processor's name: from /proc/cpuinfo on Linux, from `platform` elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
