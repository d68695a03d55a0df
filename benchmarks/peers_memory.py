"""The memory that networks need for an image, each measured in a fresh process."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch

from benchmarks.peer_networks import Peer, build, image_of
from sceneparse.runtime.memory import in_a_process, peak_memory
from sceneparse.runtime.progress import Progress

# Writing "5" to this file of Linux sets the peak memory of the process to its present size.
_RESET = Path("/proc/self/clear_refs")
# The option of the C library by which freed blocks of so many bytes are returned at once.
_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 2**16


def memory_of(
    peers: Sequence[Peer], classes: int, size: tuple[int, int], files: Path
) -> Mapping[str, int]:
    """Return by how many bytes the first forward pass of each makes a fresh process grow."""
    threads = torch.get_num_threads()
    with Progress("measure memory", len(peers), "networks") as progress:
        return {
            peer.name: in_a_process(_growth, peer, classes, size, files, threads)
            for peer in progress.over(peers)
        }


@torch.inference_mode()
def _growth(peer: Peer, classes: int, size: tuple[int, int], files: Path, threads: int) -> int:
    """Return the peak memory of this process in a forward pass, above its size before, in bytes.

    Where the peak cannot be reset, outside Linux, it may be that of building the network.
    """
    if sys.platform == "linux":  # else freed blocks stay in the process, and hide or add memory
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK)
    torch.set_num_threads(threads)
    network = build(peer, classes, files)
    image = image_of(peer, network, size)
    gc.collect()
    if _RESET.exists():
        _RESET.write_text("5")
    before: int = psutil.Process().memory_info().rss
    network(image)
    return max(peak_memory() - before, 0)
