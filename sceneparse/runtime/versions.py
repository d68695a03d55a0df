"""What figures depend on: versions, processor, GPU; for bug reports and beside measurements."""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

import sceneparse


def version_rows() -> dict[str, str]:
    """Name what is installed."""
    return {
        "sceneparse": sceneparse.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def provenance(device: torch.device) -> dict[str, str]:
    """Say what made a figure: commit of this code, machine, version of PyTorch, day."""
    return {
        "commit": _commit(),
        "machine": device_words(device),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def _commit() -> str:
    """Name the commit where this code is a git checkout, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603 - constant words
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return f"release {sceneparse.__version__}"
    return done.stdout.strip()


def device_words(device: torch.device) -> str:
    """Name the GPU, or the processor and how many threads compute on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _processor() -> str:
    """Linux says it here only; elsewhere platform knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
