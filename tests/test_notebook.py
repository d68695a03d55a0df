"""The notebooks in examples/: their stored outputs, and that they run."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_small_outputs_are_stored(path: Path) -> None:
    assert path.stat().st_size < 400_000
    assert tempfile.gettempdir() not in path.read_text()
    code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) > len(code) / 2
    assert "error" not in {output["output_type"] for output in outputs}


@pytest.mark.slow
@each_notebook
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    # Shell lines of the notebook find the command of this installation, with this code.
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    texts = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "mean IoU 0." in texts
    # A shell line that fails stops no cell.
    assert "error: " not in texts
