"""No connection is made: not on import, not by --help, not by training, evaluating, predicting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sceneparse.cli.main import COMMANDS
from sceneparse.data.synthetic import write_dataset
from tests.conftest import ROOT

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("sceneparse", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
]
# An audit hook sees every connection that Python makes, also in workers, which inherit it.
REFUSING = """
import os, runpy, socket, sys
def refuse(event, arguments):
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}:
        found = arguments[0]
    elif event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        if arguments[0].family == socket.AF_UNIX:
            return
        found = arguments[1]
    else:
        return
    os.write(2, f"CONNECTION {event} {found}\\n".encode())
    os._exit(99)
sys.addaudithook(refuse)
"""


def run_refusing(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process that dies of a connection; albumentations may ask for its version."""
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    return subprocess.run(
        [sys.executable, "-c", REFUSING + code, *map(str, arguments)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


# Runs commands one after the other, in one process: most of their time is importing.
RUNNING = """
from sceneparse.cli.main import main
def run_command(verb, *arguments):
    try:
        main([verb, *map(str, arguments)])
    except SystemExit as end:
        assert not end.code, (verb, end.code)
"""


def test_connections_would_be_seen() -> None:
    for attempt in (
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "if os.fork() == 0: socket.getaddrinfo('localhost', 9)\nsys.exit(os.wait()[1] >> 8)",
    ):
        assert run_refusing(attempt).returncode == 99, attempt


@pytest.mark.fault(50)
def test_imports_and_help_connect_to_nothing() -> None:
    code = f"""
import importlib
for name in {MODULES!r}:
    importlib.import_module(name)
for verb in {list(COMMANDS)!r}:
    run_command(verb, "--help")
sys.argv = ["benchmarks", "--help"]
try:
    runpy.run_module("benchmarks", run_name="__main__")
except SystemExit as end:
    assert not end.code
"""
    done = run_refusing(RUNNING + code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(COMMANDS) + 1


@pytest.mark.fault(50)
def test_a_whole_run_connects_to_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 4, "val": 2}, size=(48, 64))
    settings = [
        *(f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'run'}", "data.workers=1"),
        *("augment.crop=[32,48]", "augment.extra=[{name: GaussNoise, p: 0.5}]"),
        *("model.base_width=8", "model.width=8", "train.epochs=1", "train.batch_size=4"),
    ]
    code = f"""
run_command("train", "--config", "quickstart", *{settings!r})
run_command("evaluate", {str(tmp_path / "run")!r}, "--report", "--workers", 1)
run_command("predict", {str(tmp_path / "run")!r}, {str(tmp_path / "data/val/images")!r},
         "--output", {str(tmp_path / "out")!r})
run_command("check", {str(tmp_path / "data")!r}, "--output", {str(tmp_path / "check")!r})
"""
    done = run_refusing(RUNNING + code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "check/data.json").is_file()


def test_spawned_workers_connect_to_nothing(tmp_path: Path) -> None:
    """They import everything anew, and with it albumentations."""
    script = tmp_path / "script.py"
    script.write_text(
        REFUSING
        + """
def work(_):
    from sceneparse.data.loader import TensorSamples
    return "albumentations" in sys.modules and os.environ["NO_ALBUMENTATIONS_UPDATE"]
if __name__ == "__main__":
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(work, [0]) == ["1"]
"""
    )
    done = run_refusing(f"runpy.run_path({str(script)!r}, run_name='__main__')")
    assert done.returncode == 0, done.stderr
