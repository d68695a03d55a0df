"""The house rules: import directions, short functions, a README that is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import sceneparse
from sceneparse.models.heads import HEADS
from tests.commands import check_commands, commands_in, shell_blocks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted((ROOT / "sceneparse").rglob("*.py"))
SCRIPTS = [*sorted((ROOT / "tools").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
# Modules outside of config, studies, auto and cli that read the configuration.
CONFIGURED = {
    *("training/segmentation.py", "training/classification.py"),
    "suspects/folds.py",
}
# Modules that all rooms may import, and modules beside the rooms.
OPEN = {"errors", "files", "runtime/shell"}
LOOSE = {"__init__.py", "__main__.py", "losses.py", "errors.py", "files.py"}

# Which rooms each room may import, beside those open to all. Rooms below others come first.
ALLOWED: dict[str, set[str]] = {
    **{name: set() for name in sorted(OPEN)},
    "config": set(),
    "layers": set(),
    "losses": {"layers"},
    "metrics": set(),
    "runtime": set(),
    "data": {"runtime"},
    "models": {"layers"},
    "runs": {"models"},
    "report": {"data", "metrics", "runtime"},
    "inference": {"data", "models", "report", "runs", "runtime"},
    "training": {
        *("config", "data", "inference", "layers", "losses", "metrics", "models", "report"),
        *("runs", "runtime"),
    },
    "evaluation": {"data", "inference", "metrics", "models", "report", "runtime", "training"},
    "scoring": {"data", "evaluation", "metrics", "training"},
    # What the core above does without.
    "data/formats": {"data"},
    "data/checks": {"data", "report", "runtime"},
    "suspects": {
        *("config", "data", "data/checks", "inference", "report", "runs", "runtime", "training"),
    },
    "export": {"data", "inference", "layers", "models", "runtime"},
    "demo": {"data", "inference", "models", "report"},
    "studies": {
        *("config", "data", "evaluation", "inference", "metrics", "models", "report", "runs"),
        *("runtime", "training"),
    },
    "studies/sweep": {"config", "data", "models", "report", "runs", "runtime", "training"},
    "auto": {
        *("config", "data", "data/checks", "data/formats", "evaluation", "inference", "layers"),
        *("losses", "metrics", "models", "report", "runs", "runtime", "training"),
    },
}


def room_of(name: str) -> str:
    """Return the room of a module: its folder, of two levels where ALLOWED has such a room."""
    parts = name.removesuffix(".py").split("/")
    return "/".join(parts[:2]) if "/".join(parts[:2]) in ALLOWED else parts[0]


def imported_rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    ours = [name.split(".", 1)[1] for name in names if name.startswith("sceneparse.")]
    return {room_of(name.replace(".", "/")) for name in ours}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    name = path.relative_to(ROOT / "sceneparse").as_posix()
    if name in {"__init__.py", "__main__.py"} or name.startswith("cli/"):
        return  # the public names, and the commands, which put everything together
    rooms = imported_rooms(path) - {*OPEN, room_of(name)}
    assert rooms <= ALLOWED[room_of(name)]
    if "config" in rooms and not name.startswith(("studies/", "auto/")):
        assert name in CONFIGURED


def test_rooms_form_no_circle_and_nothing_lies_loose() -> None:
    for number, (room, allowed) in enumerate(ALLOWED.items()):
        assert allowed <= set(list(ALLOWED)[:number]), room
    assert {path.name for path in (ROOT / "sceneparse").glob("*.py")} == LOOSE
    assert not list((ROOT / "sceneparse").rglob("utils.py"))


def test_the_package_works_without_benchmarks() -> None:
    for path in MODULES:
        assert not re.search(r"^\s*(from|import) benchmarks", path.read_text(), re.MULTILINE), path


Function = ast.FunctionDef | ast.AsyncFunctionDef
MAX_LINES, MAX_NESTING = 60, 3
NESTING = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


def nesting_of(node: ast.AST) -> int:
    """Count the deepest ifs, loops, withs and trys in each other; elif is no level of its own."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue  # counted by itself
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        is_level = isinstance(child, NESTING) and not is_elif
        deepest = max(deepest, nesting_of(child) + is_level)
    return deepest


def too_much_in(source: str) -> list[str]:
    """Name the functions that are too long or nested too deeply, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, Function):
            continue
        place = f"{node.name} (line {node.lineno})"
        lines, nesting = (node.end_lineno or 0) - node.lineno + 1, nesting_of(node)
        if lines > MAX_LINES:
            found.append(f"{place}: {lines} lines, {MAX_LINES} allowed")
        if nesting > MAX_NESTING:
            found.append(f"{place}: {nesting} levels deep, {MAX_NESTING} allowed")
    return found


NESTED = """
def f():
    if a:
        for x in y:
            with z:
                pass
    elif b:
        try:
            pass
        finally:
            while c:
                {}
"""


def test_long_and_nested_functions_are_found() -> None:
    assert too_much_in(NESTED.format("pass")) == []
    assert too_much_in(NESTED.format("if d: pass")) == ["f (line 2): 4 levels deep, 3 allowed"]
    assert too_much_in("def f():\n" + " pass\n" * 59) == []
    assert too_much_in("def f():\n" + " pass\n" * 60) == ["f (line 1): 61 lines, 60 allowed"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_flat(path: Path) -> None:
    assert too_much_in(path.read_text(encoding="utf-8")) == []


def keyword(call: ast.Call, name: str) -> object:
    values = [k.value for k in call.keywords if k.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def dangers_in(source: str) -> list[str]:
    """Name the calls that run what a file holds, or pass text to a shell."""
    found = []
    tree = ast.parse(source)
    # An option of that name is no call of the built-in function.
    options = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)} & {"compile"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            found += [name for name in names if name in FORBIDDEN_MODULES]
            # Under another name they would not be found below.
            found += [a.name for a in node.names if a.name in {"load", "loads", "system", "popen"}]
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found += [node.id] if node.id in RUNNING_TEXT - options else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found += dangerous_call(node, f"{ast.unparse(node.func.value)}.{node.func.attr}")
    return found


RUNNING_TEXT = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"shelve", "marshal", "dill", "cloudpickle", "joblib", "xml", "code", "codeop"}
FORBIDDEN_CALLS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "os.system", "os.popen"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "torch.jit.load", "torch.hub.load"),
    *(
        "torch.package.PackageImporter",
        "torch.serialization.load",
        "torch.export.load",
        "pandas.read_pickle",
    ),
    *("shutil.unpack_archive", "torch.utils.model_zoo.load_url"),
}
# An export loads the .pt2 file that it has just written itself, to compare it with the model.
EXCEPTIONS = {"sceneparse/export/files.py": ["torch.export.load"]}


def dangerous_call(call: ast.Call, name: str) -> list[str]:
    loader = next((ast.unparse(k.value) for k in call.keywords if k.arg == "Loader"), "")
    is_dangerous = (
        name in FORBIDDEN_CALLS
        or call.func.attr == "extractall"  # type: ignore[attr-defined]
        or (call.func.attr == "extract" and keyword(call, "filter") != "data")  # type: ignore[attr-defined]
        or (name == "torch.load" and keyword(call, "weights_only") is not True)
        or (name == "yaml.load" and loader != "_StrictLoader")
        or (name in {"np.load", "numpy.load"} and keyword(call, "allow_pickle") is not False)
        or keyword(call, "shell") is True
    )
    return [name] if is_dangerous else []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=choice)",
        "import pickle as p; pickle.load(file)",
        "from pickle import loads",
        "eval(text)",
        "run = exec",
        "compile(text, name, 'exec')",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "archive.extract(member, folder)",
        "import marshal",
    ],
)
def test_dangers_are_found(source: str) -> None:
    assert dangers_in(source)


def test_options_called_compile_are_no_danger() -> None:
    assert dangers_in("def prepare(model, compile): model.compile() if compile else None") == []


@pytest.mark.parametrize(
    "path",
    [*MODULES, *SCRIPTS],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_nothing_runs_what_a_file_holds(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert dangers_in(path.read_text(encoding="utf-8")) == EXCEPTIONS.get(name, [])


def test_readme_commands_are_true() -> None:
    commands = commands_in(shell_blocks(README))
    assert all(commands[verb] for verb in ("train", "evaluate", "predict", "export", "scenes"))
    check_commands(commands)


def test_make_commands_are_true() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (blocks,) = re.findall(r"^BLOCKS = (.*)$", makefile, flags=re.MULTILINE)
    for block in blocks.split():
        commands = commands_in(makefile.replace("$$block", block))
        assert len(commands["study"]) == 3
        assert len(commands["classify"]) == len(commands["compare"]) == 1
        check_commands(commands)


def test_readme_paths_exist() -> None:
    named = re.findall(
        r"`((?:sceneparse|benchmarks|configs|tools|tests|docs|results)/[\w./{},-]*)`", README
    )
    linked = re.findall(r"\]\(((?!http)[\w./-]+)\)", README)
    assert named
    for path in {*named, *linked}:
        assert list(ROOT.glob(path)) or (ROOT / path).exists(), path


def test_readme_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z]+)", README))
    assert {"quickstart", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_readme_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(sources) == 3
    predict, spnet, linear = sources
    compile(predict, "README.md", "exec")
    names: dict[str, object] = {"sceneparse": sceneparse}
    exec("from torch import nn\n" + linear, names)
    monkeypatch.setitem(HEADS, "linear", names["LinearHead"])  # type: ignore[arg-type]
    model = sceneparse.create_segmentation_model("linear", "resnet18", 5, base_width=8)
    assert model.eval()(torch.zeros(1, 3, 33, 49))["out"].shape == (1, 5, 33, 49)
    with torch.device("meta"):
        exec(spnet, names)
    assert sum(p.numel() for p in names["model"].parameters()) == 47_737_254  # type: ignore[attr-defined]
