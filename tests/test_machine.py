"""What the machine refuses: shared memory, open files, memory, disks, TensorBoard, odd names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sceneparse.training.segmentation as building
from sceneparse.cli import train as train_command
from sceneparse.data.loader import Batch
from sceneparse.errors import InputError
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.runtime.precision import Compute
from sceneparse.training.loop import explained_lack_of_memory
from tests.conftest import ROOT
from tests.test_train_seg import QUICKSTART, call, folder_of

TRAIN = [sys.executable, "-m", "sceneparse", "train", "--config", str(QUICKSTART)]


def in_shell(script: str, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess:
    """Run a shell script in which "$@" trains, in a folder."""
    return subprocess.run(
        ["sh", "-ec", script, "sh", *TRAIN, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=120,
        check=False,
    )


def mounting(script: str, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess:
    """Run a shell script that may mount file systems only it sees."""
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("mounting needs root")
    return in_shell(f"exec unshare -m sh -ec '{script}' sh \"$@\"", arguments, folder)


def the_error(done: subprocess.CompletedProcess) -> str:
    """Return the one line that explains why a tool ended with code 2."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "a bug in sceneparse" not in done.stderr
    return str(lines[0])


@pytest.mark.fault(46)
@pytest.mark.slow
def test_shared_memory_of_4_megabytes(tiny: list[str], tmp_path: Path) -> None:
    large = [*tiny, "augment.crop=[321,481]", "train.batch_size=12", "data.workers=2"]
    start = time.monotonic()
    done = mounting('mount -t tmpfs -o size=4m tmpfs /dev/shm; exec "$@"', large, tmp_path)
    assert "finds no room in shared memory; enlarge /dev/shm" in the_error(done)
    assert time.monotonic() - start < 200  # not after the time-out of 300


@pytest.mark.fault(46)
@pytest.mark.slow
@pytest.mark.parametrize(("workers", "fits"), [(2, True), (40, False)])
def test_128_open_files(tiny: list[str], tmp_path: Path, workers: int, fits: bool) -> None:
    settings = [*tiny, f"data.workers={workers}"]
    done = in_shell('ulimit -n 128; exec "$@"', settings, tmp_path)
    if fits:
        assert done.returncode == 0, done.stderr
    else:
        assert "more than 128 open files; raise `ulimit -n`, or lower data.workers" in the_error(
            done
        )


@pytest.mark.fault(48)
@pytest.mark.slow
def test_too_little_memory(tiny: list[str], tmp_path: Path) -> None:
    huge = [*tiny, "augment.crop=[4801,4801]", "train.batch_size=12", "train.amp=off"]
    done = in_shell('ulimit -v 14000000; exec "$@"', huge, tmp_path)
    message = "cpu has too little memory for 12 images of 4801x4801; lower train.batch_size"
    assert message in the_error(done)


@pytest.mark.fault(48)
def test_lack_of_memory_on_a_gpu_names_the_batch() -> None:
    batch = Batch(torch.zeros(6, 3, 48, 64), torch.zeros(6), ("",))
    compute = Compute(torch.device("cuda", 3))
    with (
        pytest.raises(InputError, match="cuda:3 has too little memory for 6 images of 48x64; do x"),
        explained_lack_of_memory(batch, compute, "do x"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    with (
        pytest.raises(RuntimeError, match=r"^other$"),
        explained_lack_of_memory(batch, compute, ""),
    ):
        raise RuntimeError("other")


@pytest.mark.fault(49)
@pytest.mark.parametrize("depth", [pytest.param("run", marks=pytest.mark.slow), "new/run"])
def test_read_only_output(tiny: list[str], tmp_path: Path, depth: str) -> None:
    (tmp_path / "disk").mkdir()
    settings = [*tiny, f"output=disk/{depth}"]
    done = mounting('mount -t tmpfs -o ro tmpfs disk; exec "$@"', settings, tmp_path)
    assert the_error(done) == (
        f"error: cannot write the run folder 'disk/{depth}': Read-only file system; choose "
        "another one with output=FOLDER"
    )


@pytest.mark.fault(21)
def test_read_only_data(tiny: list[str], scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    settings = [*tiny, "data.root=data", "train.epochs=1"]
    mount = f'mount --bind {scenes} data; mount -o remount,ro,bind data; ! touch data/x; exec "$@"'
    done = mounting(mount, settings, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.fault(37)
@pytest.mark.slow
def test_disk_that_fills_up_leaves_what_was_saved(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    settings = [*tiny, "output=disk/run", "train.epochs=3"]
    script = (
        "mount -t tmpfs -o size=10m tmpfs disk; "
        '"$@" train.epochs=3 || code=$?; ls disk/run/checkpoints >&2; exit $code'
    )
    done = mounting(script, settings, tmp_path)
    assert "not enough room on the disk" in the_error(done)
    assert "bytes needed" in done.stderr
    assert "step-00000003\n" in done.stderr


@pytest.mark.fault(49)
def test_names_that_are_no_text(
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = os.fsdecode(b"caf\xe9")
    (tmp_path / odd).mkdir()
    monkeypatch.chdir(tmp_path / odd)
    settings = ["--config", QUICKSTART, *tiny, "train.epochs=1"]
    assert call(train_command, *settings, f"output={odd}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not UTF-8 text; call the command in that folder" in line
    assert call(train_command, *settings, "output=run") == 0
    assert (resolve_checkpoint(tmp_path / odd / "run/best") / "model.safetensors").is_file()


@pytest.mark.fault(49)
def test_training_goes_on_without_the_tensorboard_package(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert call(train_command, "--config", QUICKSTART, *tiny, "train.epochs=1") == 0
    assert "no TensorBoard from here on" in capsys.readouterr().err
    assert (folder_of(tiny) / "metrics.jsonl").read_text().count("\n") == 2


@pytest.mark.fault(49)
def test_training_goes_on_when_the_tensorboard_folder_is_deleted(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = folder_of(tiny) / "tensorboard"
    plain = building.segmentation_loss

    def deleting(*arguments: Any, **settings: Any) -> Tensor:
        shutil.rmtree(board, ignore_errors=True)
        return plain(*arguments, **settings)

    monkeypatch.setattr(building, "segmentation_loss", deleting)
    assert call(train_command, "--config", QUICKSTART, *tiny, "train.epochs=2") == 0
    said = capsys.readouterr().err
    assert said.count("no TensorBoard from here on") == 1
    assert "tensorboard is gone" in said
    lines = (folder_of(tiny) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["train", "train", "val"]
