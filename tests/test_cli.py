"""The one place where errors become a line and an exit code."""

from __future__ import annotations

import argparse
import ast
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sceneparse
from sceneparse.cli.command import command_parser, run, version_block
from sceneparse.cli.evaluate import RULES
from sceneparse.cli.main import COMMANDS, main
from sceneparse.errors import (
    Explained,
    InputError,
    NumericalError,
    Preempted,
    reason_of,
    refusing,
)
from sceneparse.metrics.confusion import ABSENT_CLASS_RULES
from tests.conftest import ROOT, RunCommand

VERSIONS = ["sceneparse", "torch", "cuda", "python", "platform"]


def end_of(error: BaseException | None, *arguments: str) -> int:
    """Run a command that raises `error`, and return its exit code."""

    def failing(_: argparse.Namespace) -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as stop:
        run(command_parser("fail", "A command.", "  sceneparse fail"), failing, arguments)
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("x.png: damaged"), 2, "error: x.png: damaged"),
        (NumericalError("the loss is nan"), 3, "error: the loss is nan"),
        (Preempted("SIGTERM received"), 75, "stopped: SIGTERM received"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("Unable to allocate 9 TiB"), 2, "error: out of memory (Unable to allocate"),
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "error: out of memory (CUDA"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), 2, "error: out of memory (Default"),
    ],
)
def test_an_error_is_a_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(error) == code
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1
    if isinstance(error, Exception):
        assert end_of(error, "--debug") == code
        said = capsys.readouterr().err
        assert "Traceback (most recent call last)" in said
        assert line in said


@pytest.mark.parametrize("error", [KeyError("lost"), RecursionError("deep"), OSError(9, "odd")])
def test_a_bug_asks_for_a_report(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(error) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    *_, request, block = said.partition("a bug in sceneparse; please report it")
    assert request
    assert [line.split()[0] for line in block.splitlines()[1:]] == VERSIONS


HEAVY = {
    *("albumentations", "cv2", "huggingface_hub", "matplotlib", "numpy", "onnx", "onnxruntime"),
    *("optuna", "pandas", "PIL", "pydantic", "safetensors", "scipy", "timm", "torch"),
    "torchvision",
}


def test_help_and_import_load_nothing_heavy() -> None:
    code = f"""
import sys
from sceneparse.cli.main import main
for arguments in [[], *([verb, "--help"] for verb in {list(COMMANDS)!r})]:
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code == 0
sys.stderr.write(" ".join(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: sceneparse ") == len(COMMANDS) + 1
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "sceneparse" in loaded
    assert loaded & HEAVY == set()


def test_a_report_is_possible_without_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "sceneparse.runtime.versions", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert end_of(ImportError("no torch")) == 1
    assert "torch      cannot be imported" in capsys.readouterr().err


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(None, "--version") == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == VERSIONS
    assert said["sceneparse"] == sceneparse.__version__
    assert said["torch"] == torch.__version__
    assert said["python"] == platform.python_version()
    assert version_block().splitlines()[-1].endswith(platform.platform())


FORGED = "a\nerror: all is well\r\x1b[2K\x9b2J\u202e\u2028\udcff.png"


def test_names_cannot_forge_lines(
    capsys: pytest.CaptureFixture[str], run_command: RunCommand
) -> None:
    assert end_of(InputError(f"{FORGED}: damaged", f"{FORGED}: too")) == 2
    first, second = capsys.readouterr().err.split("\n")[:2]
    assert first.isprintable()
    assert second.isprintable()
    assert second.startswith("  ")
    assert end_of(None, "--nonsense", FORGED) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    done = run_command("check", "nowhere", "--splits", FORGED)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.isprintable()


def test_no_line_is_endless() -> None:
    assert len(str(InputError("x" * 10**7))) == 4000


@pytest.mark.parametrize("error", [InputError("a\nb", "c"), NumericalError("d"), Preempted("e")])
def test_errors_survive_the_way_between_processes(error: Explained) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(13, "Permission denied"), "x.png: cannot be read: Permission denied"),
        (OSError("broken data stream\nand more"), "x.png: damaged: broken data stream"),
        (MemoryError(), "x.png: damaged: it does not fit into memory"),
        (RecursionError(), "x.png: damaged: it is nested too deeply"),
        (KeyError("images"), "x.png: damaged: 'images' is missing"),
        (ValueError(), "x.png: damaged: ValueError"),
        (InputError("y.png: small"), "y.png: small"),
    ],
)
def test_what_libraries_raise_becomes_ours(error: Exception, expected: str) -> None:
    with pytest.raises(InputError) as caught, refusing("x.png", "damaged"):
        raise error
    assert str(caught.value) == expected
    with pytest.raises(KeyboardInterrupt), refusing("x.png", "damaged"):
        raise KeyboardInterrupt
    assert reason_of(ValueError("\n\n two\nlines")) == "two"


def end_of_command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_home_is_expanded_in_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    parser = command_parser("x", "", "")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data")
    found = argparse.Namespace()
    with pytest.raises(SystemExit):
        given = ["~/a", "b~", "data.root=~/c", "--output=~/d", "--data", "~/e f"]
        run(parser, lambda options: found.__dict__.update(vars(options)), given)
    assert found.names == ["/home/me/a", "b~", "data.root=~/c"]
    assert (found.output, found.data) == (Path("/home/me/d"), "/home/me/e f")


def test_evaluate_offers_every_rule() -> None:
    assert set(RULES) == set(ABSENT_CLASS_RULES)


def test_every_command_has_a_file_and_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    shared = {"__init__", "command", "evaluated_data", "main", "options", "output", "suspects"}
    files = {path.stem for path in (ROOT / "sceneparse/cli").glob("*.py")} - shared
    assert files == set(COMMANDS)
    assert end_of_command() == end_of_command("--help") == 0
    listed = capsys.readouterr().out
    for verb, purpose in COMMANDS.items():
        assert listed.count(f"  {verb:<9}  {purpose}\n") == 2


@pytest.mark.parametrize(
    ("verb", "hint"),
    [("trian", "did you mean 'train'?"), ("x\ny", "choose from auto, train, evaluate")],
)
def test_an_unknown_command_is_one_line(
    verb: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of_command(verb, "--config", "x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown command")
    assert hint in line


def test_help_without_a_reader_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sceneparse", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_tools_are_the_commands() -> None:
    verbs = {"train_seg.py": "train", "eval_miou.py": "evaluate", "train_cls.py": "classify"}
    for file, verb in verbs.items():
        done = subprocess.run(
            [sys.executable, str(ROOT / f"tools/{file}"), "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith(f"usage: sceneparse {verb} ")


def test_nothing_else_ends_the_process() -> None:
    # Other ranks, workers, the processes that a sweep starts; a run that has not begun.
    others = ("runtime/distributed", "runtime/signals", "data/loader", "studies/sweep/worker")
    commands = ("cli/command", "cli/main")
    allowed = {f"sceneparse/{name}.py" for name in (*commands, *others)}
    for path in (ROOT / "sceneparse").rglob("*.py"):
        names = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute | ast.Name)
        }
        ends = names & {"sys.exit", "os._exit", "SystemExit", "exit", "quit"}
        assert not ends or str(path.relative_to(ROOT)) in allowed, path
