"""Measure the memory that work takes: run it in a fresh process and read the peak."""

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import psutil

from sceneparse.errors import InputError

Result = TypeVar("Result")


def in_a_process(work: Callable[..., Result], *arguments: object) -> Result:
    """Return the result of `work` in a fresh process; raises InputError if the process dies."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(work, *arguments).result()
    except BrokenProcessPool as error:
        raise InputError("a measuring process died, probably for lack of memory") from error


def keep_freed_memory() -> None:
    """Keep freed blocks of up to 32 MB for later steps of this process (glibc only).

    By default glibc returns the activations of a network to the system after each step, and fetches
    them again in the next one, page by page; that can take a sixth of a step. Where the user has
    set glibc's own variables (MALLOC_...), nothing changes.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as in glibc's malloc.h


def peak_memory() -> int:
    """Return the largest memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss begins with what the parent process held.
        lines = status.read_text("utf-8", "replace").splitlines()
        line = next(x for x in lines if x.startswith("VmHWM"))
        return int(line.split()[1]) * 2**10
    if sys.platform == "win32":
        peak = int(psutil.Process().memory_info().peak_wset)
    else:  # psutil knows no peak on macOS
        import resource  # noqa: PLC0415 - missing on Windows

        unit = 1 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak
