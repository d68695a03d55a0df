"""Notice other programs that keep cores busy, since a network's threads wait for the slowest."""

from __future__ import annotations

import logging
import os
import time

import psutil
import torch

logger = logging.getLogger(__name__)

# Shorter measurements depend on chance.
_MIN_SECONDS = 0.5


class OtherWork:
    """Counts the cores that other processes keep busy, from its creation on."""

    def __init__(self) -> None:
        self._start, self._busy = time.monotonic(), _busy_elsewhere()

    def cores(self) -> float:
        """Return how many cores the others have used on average; 0 in the first half second."""
        seconds = time.monotonic() - self._start
        used = max(_busy_elsewhere() - self._busy, 0.0)
        return used / seconds if seconds >= _MIN_SECONDS else 0.0

    def advise(self, device: torch.device) -> None:
        """Log how to train faster beside the others, if they leave fewer cores than threads."""
        cores, taken, threads = os.cpu_count() or 1, self.cores(), torch.get_num_threads()
        free = max(round(cores - taken), 1)
        if device.type != "cpu" or threads <= free:
            return
        logger.info(
            f"threads: {threads}, but other programs keep {taken:.1f} of {cores} cores busy; "
            f"set the variable OMP_NUM_THREADS={free} to train faster while they run"
        )


def _busy_elsewhere() -> float:
    """Return the seconds that all cores have worked, without those for this process."""
    everywhere = psutil.cpu_times()
    # Not the time of other virtual machines (steal); Windows knows no nice.
    busy = everywhere.user + everywhere.system + getattr(everywhere, "nice", 0.0)
    return float(busy - sum(os.times()[:4]))
