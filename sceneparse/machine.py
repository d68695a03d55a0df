"""What figures depend on: versions, processor, GPU; for bug reports and beside measurements."""

from __future__ import annotations

import platform
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
