"""Small datasets written to disk once, and the ways tests run commands."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sceneparse.data.datasets import create_dataset
from sceneparse.data.synthetic import write_dataset
from sceneparse.models import create_segmentation_model
from sceneparse.models.stored import step_folders
from sceneparse.runs.checkpoint import Saved, newest_intact, save_checkpoint
from tests.faults import Recorder

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# One thread per process, also in commands: workers of pytest share the cores, and numbers do not
# depend on how many there are.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
torch.set_num_threads(1)
# On the CPU, where exact values are the same on every machine. CUDA_VISIBLE_DEVICES=0 tests a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


# What pytest-xdist runs in one process, one after the other, by the beginnings of tests' names:
# files whose fixtures are made once, and whatever starts processes or measures time or memory.
TOGETHER = {
    "processes": (
        *("test_resume.py", "test_signals.py", "test_sweep_workers.py", "test_long_run.py"),
        *("test_numbers.py::test_processes_", "test_scaling.py::test_two_processes_"),
        *("test_eval_miou.py::test_more_processes_", "test_train_seg.py::test_two_processes_"),
        *("test_benchmark.py::test_training_steps_", "test_compare_cls.py::test_measured_"),
        "test_sweep_cls.py::test_grid_visits_",
    ),
    "installed": ("test_installed.py",),
    "cifar": ("test_cifar.py",),
    "exported": ("test_export.py::test_options_", "test_export.py::test_onnx_data_outside_"),
}


# Files whose tests send signals to processes, limit their memory, or mount file systems.
NEED_LINUX = [
    *("fuzz", "test_bombs.py", "test_crashes.py", "test_machine.py", "test_resume.py"),
    *("test_signals.py", "test_sweep_workers.py"),
]
collect_ignore = [] if sys.platform == "linux" else NEED_LINUX


def pytest_report_header() -> str:
    return f"left out, since they need Linux: {', '.join(collect_ignore)}" if collect_ignore else ""


def group_of(test: str) -> str:
    """Return the group of TOGETHER that a test is of, or else its own name."""
    name = test.removeprefix("tests/")
    return next((group for group, starts in TOGETHER.items() if name.startswith(starts)), test)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out the groups. pytest 9.2 ignores the mark xdist_group of pytest-xdist 3.8."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - may be missing

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return GroupScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-faults", action="store_true", help="write results/faults.json")


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")  # one of pytest-xdist, which reports elsewhere
    if config.getoption("--record-faults") and not is_worker:
        config.pluginmanager.register(Recorder())


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Take signals back from the commands that a test runs in this process."""
    names = {"SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK"}  # no system has all
    numbers = [number for number in signal.Signals if number.name in names]
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def newest_undamaged(run: Path) -> Saved | None:
    """Find the newest checkpoint of a run; fail if it is damaged."""
    saved = newest_intact(run)
    assert ([saved.folder] if saved else []) == step_folders(run)[:1]
    return saved


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Collect what the package logs."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, collector = logging.getLogger("sceneparse"), Collector()
    logger.setLevel(logging.INFO)
    logger.addHandler(collector)
    yield lines
    logger.removeHandler(collector)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 5 validation scenes of 64x96 pixels."""
    root = tmp_path_factory.mktemp("scenes")
    write_dataset(root, {"train": 12, "val": 5}, size=(64, 96))
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real data packs and oracles; tests that need them skip where they are not."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data packs in ../shared")
    return SHARED


RunCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_command() -> RunCommand:
    """Run `sceneparse VERB ...` in a process of its own; `processes` > 1: under torchrun."""

    def run(verb: str, *arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc_per_node={processes}"]
        command = [*launcher, "-m", "sceneparse", verb, *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(scenes: Path, tmp_path: Path) -> MakeRun:
    """Write the checkpoint of a small network as it was initialised, as if trained on scenes."""

    def make(
        name: str = "run",
        seed: int = 0,
        dataset: str = "folder",
        root: Path = scenes,
        head: str = "strip_pooling",
    ) -> Path:
        table = create_dataset(dataset, root, "val").table
        arguments = {
            "head": head,
            "backbone": "resnet18",
            "base_width": 8,
            "width": 8,
            "aux": False,
            "num_classes": table.num_classes,
        }
        torch.manual_seed(seed)
        model = create_segmentation_model(**arguments)
        # so that not one class covers everything
        model.head.classifier[-1].weight.data.mul_(8)  # type: ignore[union-attr,index]
        save_checkpoint(
            tmp_path / name,
            step=1,
            weights=model.state_dict(),
            training={},
            meta={
                "model": arguments,
                "classes": table.names,
                "colors": table.colors,
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
                "data": {"dataset": dataset, "root": str(root), "val_split": "val"},
                "eval": {"name": "whole", "crop": [32, 48]},
                "config": {"train": {"amp": "off"}},
            },
            best_step=1,
        )
        return tmp_path / name

    return make


@pytest.fixture
def tiny(scenes: Path, tmp_path: Path) -> list[str]:
    """Overrides that make configs/quickstart.yaml a run of seconds on the small scenes."""
    return [
        f"data.root={scenes}",
        f"output={tmp_path / 'run'}",
        "data.workers=0",
        "augment.crop=[48,64]",
        "model.base_width=8",
        "model.width=8",
        "train.epochs=2",
        "train.batch_size=4",
    ]


@pytest.fixture
def nothing_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder; nothing may appear in it, or beside the test's own folder."""
    inside = tmp_path / "empty" / "deep" / "deeper"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    before = set(tmp_path.parent.iterdir())
    yield
    assert not list(inside.iterdir())
    assert list((tmp_path / "empty").rglob("*")) == [inside.parent, inside]
    assert set(tmp_path.parent.iterdir()) == before
