"""Small data sets written to disk once, and the ways tests run the tools."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sceneparse.data.synthetic import write_dataset

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

torch.set_num_threads(2)


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


RunTool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_tool() -> RunTool:
    """Run tools/NAME.py in a process of its own; `processes` > 1 runs it under torchrun."""

    def run(name: str, *arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc_per_node={processes}"]
        command = [*launcher, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1" if processes > 1 else "2"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


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
