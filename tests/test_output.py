"""What commands leave on the terminal: summaries, --quiet and --json."""

from __future__ import annotations

import argparse
import io
import json
import logging
import shlex
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeRun
from PIL import Image
from test_train_seg import QUICKSTART, call

from sceneparse.cli import check, convert, evaluate, predict, score, train
from sceneparse.cli.command import command_parser, run
from sceneparse.cli.options import add_json, add_quiet
from sceneparse.cli.output import print_document, print_summary
from sceneparse.errors import InputError
from sceneparse.runtime.progress import Progress

LONG = (
    *("auto", "train", "classify", "evaluate", "predict", "check", "convert", "score"),
    *("calibrate", "study", "sweep", "compare", "export", "scenes"),
)


def end_of(main: Callable[[argparse.Namespace], None], *arguments: str) -> int:
    parser = command_parser("test", "Test.", "")
    add_quiet(parser)
    add_json(parser, "a document")
    with pytest.raises(SystemExit) as stop:
        run(parser, main, arguments)
    return int(stop.value.code or 0)


def work(_: argparse.Namespace) -> None:
    """Print all that a command prints."""
    print("details")
    logging.getLogger("sceneparse.test").info("a note")
    logging.getLogger("sceneparse.test").warning("a warning")
    warnings.warn("of a library", stacklevel=1)
    with Progress("test", 2, "images") as progress:
        progress.write("a line")
    print_document({"value": 0.1, "missing": float("nan"), "name": "ü\udcff"})
    print_summary("test", {"result": "good", "page": Path("my run/it's.html")}, ["see", "a b"])


def test_summary_is_plain_and_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(work) == 0
    printed = capsys.readouterr()
    page, following = printed.out.splitlines()[-2:]
    assert printed.out.startswith("details\na note\na warning\n\nresult       good\n")
    assert shlex.split(page) == ["page", "my run/it's.html"]
    assert shlex.split(following) == ["next", "see", "a b"]
    assert "a line\n" in printed.err


def test_quiet_leaves_the_result_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="of a library"):
        assert end_of(work, "--quiet") == 0
    printed = capsys.readouterr()
    assert printed.out == "result       good\n"
    assert printed.err == "a warning\n"
    # The next command of the process is as before.
    assert end_of(work) == 0
    assert "details\na note\n" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--json",), ("--json", "--quiet")])
def test_json_is_one_document(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(work, *flags) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"value": 0.1, "missing": None, "name": "ü\udcff"}
    assert printed.out.isascii()
    assert ("details" in printed.err) == ("--quiet" not in flags)
    assert "a warning" in printed.err


@pytest.mark.parametrize("flags", [("--json",), ("--quiet",), ("--json", "--quiet")])
def test_errors_leave_stdout_empty(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> None:
        raise InputError("this is wrong")

    assert end_of(fail, *flags) == 2
    assert capsys.readouterr() == ("", "error: this is wrong\n")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_lines_above_and_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    print_summary("test", {"result": "good " * 30}, ["see", "it"])
    top, *rows, bottom = terminal.getvalue().strip("\n").splitlines()
    assert set(bottom) == {"─"}
    assert top.startswith("── test ──")
    assert len(top) == len(bottom) <= 80
    assert rows == [f"result       {'good ' * 30}", "next         see it"]


@pytest.mark.parametrize("verb", LONG)
def test_every_long_command_can_be_quiet(verb: str) -> None:
    parser = import_module(f"sceneparse.cli.{verb}").parser()
    assert "--quiet" in parser._option_string_actions


def test_quiet_has_no_effect_on_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(train, "--config", QUICKSTART, "--print-config", "--quiet") == 2
    assert capsys.readouterr() == (
        "",
        "error: --quiet has no effect with --print-config; omit it\n",
    )


def test_scores_on_stdout_are_those_of_the_file(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(name, seed) for seed, name in enumerate(("a", "b"))]
    for place in runs:
        assert call(evaluate, place, "--json", "--report") == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out) == json.loads((place / "eval_val/eval.json").read_text())
        assert "next         sceneparse predict" in printed.err
    output = tmp_path / "both"
    assert call(evaluate, "--compare", *runs, "--json", "--quiet", "--output", output) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((output / "compare.json").read_text())
    assert printed.err == ""

    assert call(evaluate, runs[0], "--save", "index", "--quiet") == 0
    line = capsys.readouterr().out
    mean = json.loads((runs[0] / "eval_val/eval.json").read_text())["mean_iou"]
    assert line.startswith(f"mean IoU     {mean:.4f} (95% interval ")
    assert line.count("\n") == 1
    labels, again = runs[0] / "eval_val/index", tmp_path / "scored"
    assert call(score, labels, scenes / "val/labels", "--json", "--output", again) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((again / "eval.json").read_text())
    assert found["mean_iou"] == mean

    assert call(evaluate, tmp_path / "nothing", "--json") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_findings_of_check_on_stdout(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "checked"
    assert call(check, scenes, "--json", "--quiet", "--output", output) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found == json.loads((output / "data.json").read_text())
    assert (found["failures"], printed.err) == ([], "")
    # Problems are a result: the document names them, and the exit code is 2.
    assert call(check, scenes, "--splits", "val", "test", "--json", "--output", output) == 2
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["failures"]) == 1
    assert printed.err.splitlines()[-1].startswith("error: 1 problems, the first: test: ")

    suspects = tmp_path / "suspects"
    arguments = (scenes, "--model", make_run(), "--json", "--output", suspects)
    assert call(check, *arguments) == 0
    rows = json.loads(capsys.readouterr().out)["suspects"]
    table = (suspects / "suspects.csv").read_text().splitlines()
    assert len(rows) == len(table) - 1
    for row, line in zip(rows, table[1:], strict=True):
        assert line.startswith(f"{row['rank']},{row['image']},{row['score']:.2f},")


def test_other_commands_are_quiet_too(
    make_run: MakeRun,
    tiny: list[str],
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(train, "--config", QUICKSTART, *tiny, "--quiet") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("best         mean IoU 0.")
    assert printed.out.count("\n") == 1
    assert printed.err == ""

    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(photos / "a.png")
    (photos / "b.png").write_text("no picture")
    output = tmp_path / "predictions"
    assert call(predict, make_run(), photos, "--quiet", "--output", output) == 2
    printed = capsys.readouterr()
    assert printed.out == "predicted    1 of 2 inputs\n"
    skipped, error = printed.err.splitlines()
    assert skipped.startswith(f"skipped: {photos / 'b.png'}: not an image file")
    assert error.startswith("error: 1 inputs could not be predicted: ")

    data, pairs = tmp_path / "my data", tmp_path / "pairs.csv"
    shutil.copytree(scenes / "train", tmp_path / "train")
    names = [f"scene_{k:05d}" for k in range(12)]
    lines = [f"train/images/{name}.jpg,train/labels/{name}.png" for name in names]
    pairs.write_text("\n".join(["image,mask", *lines]) + "\n")
    given = (pairs, data, "--classes", scenes / "classes.txt")
    assert call(convert, *given, "--quiet") == 0
    assert capsys.readouterr().out.startswith("converted    12 images (")
    # The next command can be pasted, although the folder's name has a space.
    assert call(convert, pairs, tmp_path / "other data", *given[2:]) == 0
    following = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert following[:4] == ["next", "sceneparse", "check", str(tmp_path / "other data")]
    assert call(check, *following[3:], "--allow-twins", "--output", tmp_path / "checked") == 0
