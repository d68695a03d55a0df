"""Threads follow from affinity and from limits of control groups, before PyTorch loads."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from sceneparse.data.loader import TensorSamples, batches, training_loader
from sceneparse.data.sampling import EpochSampler
from sceneparse.runtime import neighbours, threads, versions
from sceneparse.runtime.threads import VARIABLES, set_threads, usable_cores
from tests.conftest import ROOT

V2 = "0::{}\n"
V1 = "9:name=systemd:/\n4:cpu,cpuacct:{}\n3:cpuset:/elsewhere\n"
UNIFIED = "30 24 0:26 {root} {top} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
SPLIT = "33 25 0:30 {root} {top} rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER = "34 25 0:31 / {top}/elsewhere rw - cgroup cgroup rw,cpuset"


def pretend(folder: Path, files: dict[str, str], *, own: str, mount: str, root: str = "/") -> Path:
    """Write what /proc/self tells of control groups, and their files; return the /proc/self."""
    top, process = folder / "top", folder / "self"
    process.mkdir()
    (process / "cgroup").write_text(own)
    lines = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw", OTHER, mount]
    text = "\n".join(line.format(top=top, root=root) for line in lines)
    (process / "mountinfo").write_text(text + "\n")
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)
    return process


def v1(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {
        f"{group}cpu.cfs_quota_us": f"{quota}\n",
        f"{group}cpu.cfs_period_us": f"{period}\n",
    }


@pytest.fixture
def of_64_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_allowed_cores", lambda: 64)


CASES: dict[str, tuple[dict[str, Any], int]] = {
    "v2": ({"files": {"a/b/cpu.max": "300000 100000\n"}}, 3),
    "v2 without limit": ({"files": {"a/b/cpu.max": "max 100000\n"}}, 64),
    "v2 another period": ({"files": {"a/b/cpu.max": "20000 10000\n"}}, 2),
    "v2 the group above": (
        {"files": {"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "500000 100000\n"}},
        5,
    ),
    "v2 a wider group above": (
        {"files": {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "500000 100000\n"}},
        2,
    ),
    "v2 above that": ({"files": {"cpu.max": "400000 100000\n", "a/cpu.max": "max 100000\n"}}, 4),
    "v2 sibling": ({"files": {"a/c/cpu.max": "100000 100000\n"}}, 64),
    "v2 2.49 cores": ({"files": {"a/b/cpu.max": "249000 100000\n"}}, 2),
    "v2 1.5 cores": ({"files": {"a/b/cpu.max": "150000 100000\n"}}, 2),
    "v2 tenth of a core": ({"files": {"a/b/cpu.max": "10000 100000\n"}}, 1),
    "v2 more than there is": ({"files": {"a/b/cpu.max": "9900000 100000\n"}}, 64),
    # In a container: the mounted folder is its group, whose path may be that of the host.
    "v2 own namespace": ({"files": {"cpu.max": "200000 100000\n"}, "own": V2.format("/")}, 2),
    "v2 path of the host": (
        {"files": {"cpu.max": "200000 100000\n"}, "own": V2.format("/docker/f00"), "root": "/x"},
        2,
    ),
    "v2 below the container": (
        {
            "files": {"cpu.max": "700000 100000\n", "job/cpu.max": "200000 100000\n"},
            "own": V2.format("/docker/f00/job"),
            "root": "/docker/f00",
        },
        2,
    ),
    "v1": ({"files": v1("a/b/", 200_000), "own": V1.format("/a/b"), "mount": SPLIT}, 2),
    "v1 without limit": ({"files": v1("a/b/", -1), "own": V1.format("/a/b"), "mount": SPLIT}, 64),
    "v1 the group above": (
        {
            "files": v1("a/b/", -1) | v1("a/", 60_000, 20_000) | v1("", 900_000),
            "own": V1.format("/a/b"),
            "mount": SPLIT,
        },
        3,
    ),
    "v1 container": (
        {"files": v1("", 150_000), "own": V1.format("/docker/f00"), "mount": SPLIT, "root": "/x"},
        2,
    ),
    "both": (
        {
            "files": v1("a/", 400_000) | {"b/cpu.max": "300000 100000\n"},
            "own": V1.format("/a") + V2.format("/b"),
            "mount": f"{SPLIT}\n{UNIFIED}",
        },
        3,
    ),
    "no number": ({"files": {"a/b/cpu.max": "\N{SNOWMAN} 100000\n"}}, 64),
    "period of zero": ({"files": {"a/b/cpu.max": "100000 0\n"}}, 64),
    "empty file": ({"files": {"a/b/cpu.max": ""}}, 64),
    "folder instead of a file": ({"files": {"a/b/cpu.max/x": ""}}, 64),
    "half of version 1": (
        {"files": {"a/cpu.cfs_quota_us": "1"}, "own": V1.format("/a"), "mount": SPLIT},
        64,
    ),
    "another system": ({"files": {}, "own": "0\n", "mount": "no mount"}, 64),
}


@pytest.mark.usefixtures("of_64_cores")
@pytest.mark.parametrize("case", CASES)
def test_limits_of_control_groups(tmp_path: Path, case: str) -> None:
    system, expected = CASES[case]
    process = pretend(tmp_path, **{"own": V2.format("/a/b"), "mount": UNIFIED, **system})
    assert usable_cores(process) == expected


@pytest.mark.usefixtures("of_64_cores")
def test_system_without_control_groups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "missing") == 64


@pytest.mark.usefixtures("of_64_cores")
@pytest.mark.parametrize(
    ("by_user", "expected"),
    [
        ({}, {"OMP_NUM_THREADS": "2", "OPENCV_FOR_THREADS_NUM": "2"}),
        ({"OMP_NUM_THREADS": "7"}, {"OPENCV_FOR_THREADS_NUM": "2"}),
        ({"OPENCV_FOR_THREADS_NUM": "7"}, {"OMP_NUM_THREADS": "2"}),
        ({"MKL_NUM_THREADS": "7"}, {}),
    ],
)
def test_only_what_the_user_has_not_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_user: dict[str, str],
    expected: dict[str, str],
) -> None:
    files = {"cpu.max": "200000 100000"}
    process = pretend(tmp_path, files, own=V2.format("/"), mount=UNIFIED)
    monkeypatch.setattr(os, "environ", dict(by_user))
    set_threads(process)
    assert os.environ == {**by_user, **expected}


@pytest.mark.usefixtures("of_64_cores")
def test_nothing_is_set_without_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    set_threads(tmp_path)
    assert os.environ == {}


def run_python(code: str, *arguments: object, first: tuple[str, ...] = ()) -> Any:
    """Run code in an interpreter without our own settings; return the JSON that it prints."""
    left_out = {*VARIABLES, "OMP_WAIT_POLICY", "MKL_NUM_THREADS"}
    done = subprocess.run(
        [*first, sys.executable, "-c", code, *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if name not in left_out},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_libraries_start_no_more_threads_than_the_limit(tmp_path: Path) -> None:
    files = {"cpu.max": "100000 100000"}
    process = pretend(tmp_path, files, own=V2.format("/"), mount=UNIFIED)
    if usable_cores() == 1:
        pytest.skip("needs two cores")
    code = (
        "import sys, json; from pathlib import Path\n"
        "from sceneparse.runtime.threads import set_threads; set_threads(Path(sys.argv[1]))\n"
        "import torch, cv2; print(json.dumps([torch.get_num_threads(), cv2.getNumThreads()]))"
    )
    assert run_python(code, process) == [1, 1]


# The command, and then what PyTorch found.
COMMAND = """
import json, os, sys
import sceneparse, sceneparse.cli.main as command
order, environment = [], dict(os.environ)
set_threads = command.set_threads
command.set_threads = lambda: (order.append("torch" in sys.modules), set_threads())
order.append(os.environ == environment)
try:
    command.main(["recipes"])
except SystemExit as end:
    order.append(end.code)
import torch
from sceneparse.runtime.versions import describe_device
print(json.dumps([order, torch.get_num_threads(), describe_device(torch.device("cpu"))]))
"""


def test_command_on_one_core_has_one_thread() -> None:
    taskset, cores = shutil.which("taskset"), os.cpu_count() or 1
    if taskset is None or cores == 1:
        pytest.skip("needs taskset and two cores")
    core = min(os.sched_getaffinity(0))
    order, count, device = run_python(COMMAND, first=(taskset, "-c", str(core)))
    # Importing sets nothing; PyTorch is not there yet when the command sets threads.
    assert order == [True, False, 0]
    assert count == 1
    assert device.endswith(f", 1 thread on 1 of {cores} cores")


@pytest.mark.parametrize(("usable", "expected"), [(2, "on 2 of 64 cores"), (64, "thread")])
def test_withheld_cores_are_named(
    monkeypatch: pytest.MonkeyPatch, usable: int, expected: str
) -> None:
    monkeypatch.setattr(versions, "usable_cores", lambda: usable)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert versions.describe_device(torch.device("cpu")).endswith(expected)


class Threads:
    """A dataset whose images hold how many threads PyTorch and OpenCV have."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Any, Any, str]:
        counts = [torch.get_num_threads(), cv2.getNumThreads(), 0]
        return np.array([[counts]], np.uint8), np.zeros((1, 1), np.uint8), str(index)


@pytest.mark.parametrize("start", multiprocessing.get_all_start_methods())
def test_data_workers_have_one_thread(monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # for those that do not fork
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        loader = training_loader(
            TensorSamples(Threads()),  # type: ignore[arg-type]
            EpochSampler(2, 2),
            workers=1,
            timeout=60,
        )
        loader.multiprocessing_context = start
        (batch,) = batches(loader)
    finally:
        torch.set_num_threads(before)
    assert batch.images.flatten(1).tolist() == [[1, 1, 0]] * 2


@pytest.mark.parametrize(
    ("busy", "own", "advised"),
    [
        (10.0, 10.0, None),  # all of it is this process
        (11.0, 10.0, None),
        (16.0, 10.0, "other programs keep 1.5 of 4 cores busy"),  # 2.5 are left
        (50.0, 10.0, "OMP_NUM_THREADS=1 to train faster"),  # no core is left
    ],
)
def test_other_programs_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    busy: float,
    own: float,
    advised: str | None,
) -> None:
    seconds = 4.0
    monkeypatch.setattr(neighbours.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(neighbours.torch, "get_num_threads", lambda: 4)
    now = SimpleNamespace(clock=100.0, busy=1000.0, own=3.0)
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: now.clock)
    monkeypatch.setattr(neighbours.os, "times", lambda: (now.own, 0, 0, 0, now.clock))
    times = lambda: SimpleNamespace(user=now.busy, system=0.0)  # noqa: E731 - as on Windows
    monkeypatch.setattr(neighbours.psutil, "cpu_times", times)
    others = neighbours.OtherWork()
    now = SimpleNamespace(clock=now.clock + seconds, busy=now.busy + busy, own=now.own + own)
    with caplog.at_level("INFO"):
        others.advise(torch.device("cuda"))
        assert not caplog.text
        others.advise(torch.device("cpu"))
    assert (advised in caplog.text) if advised else not caplog.text
