"""The house rules: import directions, and a README whose commands and paths are true."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sceneparse
from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.models.heads import HEADS
from sceneparse.sweep.plan import read_plan
from tools import (
    benchmark,
    check_data,
    compare_cls,
    convert_data,
    convert_weights,
    eval_miou,
    make_scenes,
    predict,
    sweep_cls,
    train_cls,
    train_seg,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted((ROOT / "sceneparse").rglob("*.py"))
LEAVES = {"errors"}

# Which parts of sceneparse each part may import; errors is open to all.
ALLOWED = {
    "errors": set(),
    "cli": {"machine"},
    "machine": set(),
    "config": {"config"},
    "layers": {"layers"},
    "models": {"models", "layers"},
    "data": {"data"},
    "benchmark": {"benchmark", "data", "inference", "layers", "models", "precision"},
    "losses": {"layers"},
    "metrics": {"metrics"},
    "optim": set(),
    "precision": {"distributed"},
    "preemption": set(),
    "distributed": set(),
    "durable": set(),
    "logs": {"durable"},
    "inference": {"inference", "models"},
    "checkpoint": {"durable", "models"},
    "report": {"report", "metrics", "data"},
    "prediction": {
        "checkpoint",
        "data",
        "inference",
        "models",
        "precision",
        "prediction",
        "report",
    },
    "evaluation": {
        "data",
        "distributed",
        "engine",
        "logs",
        "metrics",
        "prediction",
        "report",
    },
    "saving": {"checkpoint", "durable"},
    "run_folder": {"durable", "logs", "run_lock"},
    "run_lock": set(),
    "engine": {"data", "distributed", "inference", "models", "precision"},
    "validation": {
        "data",
        "distributed",
        "engine",
        "inference",
        "metrics",
        "models",
        "precision",
        "preemption",
        "report",
    },
    "position": {"distributed", "engine", "logs"},
    "training": {
        "data",
        "distributed",
        "engine",
        "inference",
        "logs",
        "position",
        "precision",
        "preemption",
        "report",
        "run_lock",
        "saving",
        "validation",
    },
}


def imported_parts(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    return {name.split(".")[1] for name in names if name.startswith("sceneparse.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    part = path.relative_to(ROOT / "sceneparse").parts[0].removesuffix(".py")
    if part in {"__init__", "assembly", "sweep"}:  # the public names; what puts parts together
        return
    assert imported_parts(path) - LEAVES <= ALLOWED[part]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_assembly_reads_the_configuration(path: Path) -> None:
    if path.relative_to(ROOT / "sceneparse").parts[0] not in {"assembly", "config", "sweep"}:
        assert "config" not in imported_parts(path)


def readme_commands(tool: str) -> list[list[str]]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[words.index(tool) + 1 :] for words in lines if tool in words]


def test_readme_commands_parse() -> None:
    training = readme_commands("tools/train_seg.py")
    evaluating = readme_commands("tools/eval_miou.py")
    making = readme_commands("tools/make_scenes.py")
    assert training
    assert evaluating
    assert making
    for words in training:
        options = train_seg.parser().parse_intermixed_args(words)
        load_config(ROOT / options.config, options.overrides, SegConfig)
    for words in readme_commands("tools/train_cls.py"):
        options = train_cls.parser().parse_intermixed_args(words)
        load_config(ROOT / options.config, options.overrides, ClsConfig)
    for words in readme_commands("tools/sweep_cls.py"):
        options = sweep_cls.parser().parse_intermixed_args(words)
        assert read_plan(ROOT / options.sweep, options.overrides, options.trials).starts()
    for words in evaluating:
        eval_miou.parser().parse_args(words)
    for tool in (convert_weights, check_data, compare_cls, convert_data, benchmark, predict):
        for words in readme_commands(f"tools/{tool.__name__.removeprefix('tools.')}.py"):
            tool.parser().parse_args(words)
    for words in making:
        make_scenes.parser().parse_args(words)


def test_readme_paths_exist() -> None:
    named = re.findall(r"`((?:sceneparse|configs|tools|tests|docs|results)/[\w./{},-]*)`", README)
    linked = re.findall(r"\]\(((?!http)[\w./-]+)\)", README)
    assert named
    for path in {*named, *linked}:
        assert list(ROOT.glob(path)) or (ROOT / path).exists(), path


def test_readme_names_every_module_and_tool() -> None:
    for path in [*MODULES, *(ROOT / "tools").glob("*.py")]:
        name = path.parent.name if path.name == "__init__.py" else path.name
        assert name in README, f"README's 'Where is what' lacks {path.relative_to(ROOT)}"


def test_readme_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z]+)", README))
    assert {"quickstart", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.fault(50)
def test_importing_opens_no_socket() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
    ]
    code = (
        "import socket, importlib\n"
        "def refuse(*_, **__): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_readme_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(sources) == 3
    predict, linear, spnet = sources
    compile(predict, "README.md", "exec")
    names: dict[str, object] = {"sceneparse": sceneparse}
    exec("from torch import nn\n" + linear, names)
    monkeypatch.setitem(HEADS, "linear", names["LinearHead"])  # type: ignore[arg-type]
    model = sceneparse.create_segmentation_model("linear", "resnet18", 5, base_width=8)
    assert model.eval()(torch.zeros(1, 3, 33, 49))["out"].shape == (1, 5, 33, 49)
    with torch.device("meta"):
        exec(spnet, names)
    assert sum(p.numel() for p in names["model"].parameters()) == 47_737_254  # type: ignore[attr-defined]
