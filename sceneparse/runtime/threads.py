"""Set the number of threads by the cores that this process may use, before PyTorch loads.

OpenMP, with which PyTorch computes in parallel, starts a thread for each core of the affinity mask.
It does not know the limit of CPU time that a container has (control groups of Linux).

How its threads wait (OMP_WAIT_POLICY, GOMP_SPINCOUNT) is left as it is: if they sleep at once
instead, training is 1.1 times as fast beside a busy process, and 0.7 times as fast alone.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Read by OpenMP and OpenBLAS, and by OpenCV. ONNX Runtime is given the number of PyTorch's threads.
VARIABLES = ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def set_threads(process: Path = Path("/proc/self")) -> None:
    """Limit the threads of libraries that load later; variables that the user has set stay.

    `process`: its folder in /proc. Without a limit of CPU time nothing is set, since libraries
    count the allowed cores themselves and leave out the second threads of cores.
    """
    limit = _time_limit(process)
    if limit < _allowed_cores() and "MKL_NUM_THREADS" not in os.environ:
        for name in VARIABLES:
            os.environ.setdefault(name, str(_whole(limit)))


def usable_cores(process: Path = Path("/proc/self")) -> int:
    """Return how many cores a process may use: those that are allowed, and their CPU time."""
    return min(_allowed_cores(), _whole(_time_limit(process)))


def _whole(cores: float) -> int:
    """Return the number of threads for a limit of CPU time, rounded from .5 upwards; at least 1.

    A thread above the limit is stopped for the rest of each period (0.1 s), and the others wait for
    it; one thread fewer wastes time. With 1.5 cores, the quickstart trains 1.13 times as fast on
    two threads as on one.
    """
    return max(1, math.floor(min(cores + 0.5, sys.maxsize)))


def _allowed_cores() -> int:
    """Return the number of cores in the affinity mask, or of all where there is no mask."""
    if sys.version_info >= (3, 13):
        count = os.process_cpu_count()
    elif sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return count or 1


def _time_limit(process: Path) -> float:
    """Return how many cores' time the control groups of a process allow; infinity: no limit."""
    try:
        return min(map(_limit_of, _groups(process)), default=math.inf)
    except ValueError:  # a system whose /proc differs from Linux's
        return math.inf


def _groups(process: Path) -> Iterator[Path]:
    """Yield the folders of a process's control groups and of the groups above them.

    In a container, the path of a group may start above the folder that is mounted.
    """
    paths: dict[str, str] = {}  # by controller; "" stands for all of version 2
    for line in _read(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in _read(process / "mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        root, folder = mount.split()[3:5]
        kind, *_, options = filesystem.split()
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            path = paths.get("" if kind == "cgroup2" else "cpu", "")
            group = Path(folder, path.removeprefix(root).lstrip("/"))
            yield from (place for place in (group, *group.parents) if place.is_relative_to(folder))


def _limit_of(group: Path) -> float:
    """Return how many cores' time a control group allows, by cgroup version 2 or 1."""
    numbers = _read(group / "cpu.max").split()
    numbers = numbers or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = map(int, numbers)
    except ValueError:  # "max", or no such files
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _read(file: Path) -> str:
    """Return the text of a file; empty if it cannot be read, as on other systems than Linux."""
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
