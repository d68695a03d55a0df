"""The pages: commands parse, paths exist, Python compiles, generated parts are fresh."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import sceneparse
from benchmarks import __main__ as benchmark
from tests.commands import check_commands, commands_in, shell_blocks

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
# Folders of the repository; what is below data/ and runs/ is the reader's own.
PLACES = "sceneparse|benchmarks|configs|tools|tests|docs|results"


@each_page
def test_commands_are_true(page: Path) -> None:
    text = shell_blocks(page.read_text(encoding="utf-8"))
    check_commands(commands_in(text))
    for words in re.findall(r"^python -m benchmarks (.+)$", text, re.MULTILINE):
        name, *arguments = shlex.split(words)
        if name in benchmark.WITH_OWN_OPTIONS:
            own = import_module(f"benchmarks.{name}")
            own.parser().parse_intermixed_args(arguments)
        else:
            benchmark.parser().parse_args([name, *arguments])


@each_page
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for target in {
        *re.findall(r"`make ([a-z]+)", text),
        *re.findall(r"^make ([a-z]+)", text, re.M),
    }:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@each_page
def test_paths_exist(page: Path) -> None:
    for path in re.findall(rf"`((?:{PLACES})/[\w./-]*)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


@each_page
def test_python_compiles(page: Path) -> None:
    for source in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        compile(source, str(page), "exec")


@pytest.mark.filterwarnings("error:.*not writable")
def test_own_loop_runs(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs/how-to/training.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    shutil.copy(next((scenes / "val/images").iterdir()), tmp_path / "photo.jpg")
    for name, place in (("data/quickstart", scenes), ("imagenet", "resnet18.pth")):
        source = source.replace(f'"{name}"', f'"{place}"')
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(source.replace("range(10)", "range(2)"), {})
    first, last = re.findall(r"loss ([\d.]+)", capsys.readouterr().out)
    assert float(last) < float(first)
    assert Image.open("photo_overlay.png").size[0] == 96
    classes = (scenes / "classes.txt").read_text().split("\n")[:-1]
    assert sceneparse.load_model("runs/mine").classes == classes


def test_a_network_of_torchvision_is_scored(
    scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/how-to/score.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(source.replace('"data/quickstart"', f'"{scenes}"'), {})
    assert re.match(r"0\.\d+ Interval\(", capsys.readouterr().out)


def test_generated_pages_are_fresh() -> None:
    script = ROOT / "docs" / "generate_reference.py"
    spec = spec_from_file_location("generate_reference", script)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, page in module.PAGES.items():
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert page() == text, f"{name}: run python docs/generate_reference.py"


def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "speed.json").is_file()
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?(https?:[^\s\">]*)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"?(https?:[^\s\">]*)", text)
        assert not loaded, page
