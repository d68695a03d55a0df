"""The package as its users get it: a wheel without the repository, and runs of an older version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sceneparse
from sceneparse.cli import evaluate, predict, train
from sceneparse.data.synthetic import write_dataset
from tests.conftest import ROOT
from tests.test_train_seg import call

SMALL = [
    *("data.workers=0", "augment.crop=[48,64]", "model.base_width=8", "model.width=8"),
    *("train.batch_size=4", "train.amp=off"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it, with the command that pip would write, into a folder."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # a build leaves files beside its sources
    for name in ("sceneparse", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run(build, cwd=source, check=True, timeout=120)
    (wheel,) = folder.glob("sceneparse-*.whl")
    target = folder / "site"
    install = [*pip, "install", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, cwd=folder, check=True, timeout=120)
    return target


def test_the_wheel_holds_the_package_alone(installed: Path) -> None:
    names = zipfile.ZipFile(next(installed.parent.glob("*.whl"))).namelist()
    rooms = {name.partition("/")[0] for name in names}
    assert rooms == {"sceneparse", f"sceneparse-{sceneparse.__version__}.dist-info"}
    for ours, theirs, kinds in (
        ("configs", "sceneparse/configs", ["*.yaml"]),
        (
            "sceneparse",
            "sceneparse",
            ["*.py", "*.csv", "*.html", "*.css", "*.js", "*.txt", "py.typed"],
        ),
    ):
        for kind in kinds:
            shipped = {path.relative_to(ROOT / ours) for path in (ROOT / ours).rglob(kind)}
            folder = installed / theirs
            assert {path.relative_to(folder) for path in folder.rglob(kind)} == shipped


def test_the_installed_command_does_the_main_job(installed: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(installed / "bin/sceneparse"), *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("recipes", "quickstart") == (ROOT / "configs/quickstart.yaml").read_text()
    run("scenes", "data/quickstart", "--train", "4", "--val", "2", "--size", "64", "96")
    run("train", "--config", "quickstart", *SMALL, "train.epochs=1")
    assert "mean IoU" in run("evaluate", "runs/quickstart", "--workers", "0")
    run("predict", "runs/quickstart", "data/quickstart/val/images")
    assert len(list((tmp_path / "predictions/overlay").iterdir())) == 2
    # The package that ran is the installed one, and nothing was written beside the work.
    assert {path.name for path in tmp_path.iterdir()} == {"data", "runs", "predictions"}


def test_a_run_of_version_0_1_0_evaluates_predicts_and_resumes(
    tmp_path: Path,
) -> None:
    """Stopped after 30 of 32 epochs; the scores are those that version measured itself."""
    with tarfile.open(ROOT / "tests/data/run_of_0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    run, scenes = tmp_path / "old_run", tmp_path / "scenes"
    write_dataset(scenes, {"train": 12, "val": 5}, size=(64, 96))

    def scored(checkpoint: Path) -> float:
        output = tmp_path / "scores"
        assert call(evaluate, checkpoint, "--data", scenes, "--output", output) == 0
        return float(json.loads((output / "eval.json").read_text())["mean_iou"])

    assert scored(run / "best") == scored(run / "last") == pytest.approx(0.1379, abs=1e-3)
    assert call(predict, run, scenes / "val/images", "--output", tmp_path / "predictions") == 0
    settings = [*SMALL, f"data.root={scenes}", "train.epochs=32", "eval.every=30"]
    assert call(train, "--config", "quickstart", *settings, f"output={run}", "--resume") == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 96
    assert last["mean_iou"] == pytest.approx(0.1508, abs=2e-3)
