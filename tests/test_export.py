"""Exported files compute what their models do, at sizes they were not traced at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_prepare import NETWORKS, trained
from test_train_seg import call
from torch.nn import functional as F

import sceneparse
from sceneparse import export
from sceneparse.errors import InputError
from sceneparse.layers.pooling import pooling_matrix
from tools import eval_miou, predict
from tools import export as export_tool

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'sceneparse[export]'")


@pytest.mark.parametrize("grid", [1, 2, 3, 6, 12, 20])
def test_matrices_pool_as_adaptive_pooling(grid: int) -> None:
    for height, width in ((1, 7), (13, 20), (20, 41), (64, 127)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        rows, columns = (pooling_matrix(size, grid, x) for size in (height, width))
        expected = F.adaptive_avg_pool2d(x, grid)
        torch.testing.assert_close(rows @ x @ columns.T, expected, rtol=0, atol=1e-12)


@pytest.fixture
def described() -> Any:
    model: Any = trained(NETWORKS["head strip_pooling"])
    names = [f"class {k}" for k in range(5)]
    colors = [(k, 2 * k, 3 * k) for k in range(5)]
    model.meta |= {"classes": names, "colors": colors, "mean": [0.4] * 3, "std": [0.2] * 3}
    return model


# One for each kind of graph: pools of both kinds, bottlenecks, other people's backbones.
@pytest.mark.parametrize("name", ["head strip_pooling", "head psp", "attention triplet"])
def test_onnx_is_the_model(name: str, tmp_path: Path, described: Any) -> None:
    model: Any = trained(NETWORKS[name])
    model.meta |= {k: v for k, v in described.meta.items() if k != "model"}
    differences = export.export_onnx(model, tmp_path / "model.onnx")
    assert len(differences) == 3
    assert max(differences.values()) < 1e-4
    predictor = sceneparse.Predictor(tmp_path / "model.onnx")
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    expected = sceneparse.Predictor(model, amp="off")(image)
    found = predictor(image)
    assert (found.labels == expected.labels).mean() > 0.999
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    assert predictor.model.classes == model.classes


def test_argmax_inside_gives_the_labels_of_whole_images(tmp_path: Path, described: Any) -> None:
    import onnxruntime  # noqa: PLC0415 - may be missing

    path = tmp_path / "labels.onnx"
    export.export_onnx(described, path, normalize=True, argmax=True)
    image = np.random.default_rng(1).integers(0, 256, (70, 51, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(path)
    (labels,) = session.run(None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32)})
    expected = sceneparse.Predictor(described, amp="off", protocol="whole")(image).labels
    assert (labels[0] == expected).mean() > 0.999
    with pytest.raises(InputError, match="was exported with --normalize"):
        sceneparse.Predictor(path)


@pytest.mark.fault(51)
def test_a_mismatch_removes_the_file(
    tmp_path: Path, described: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    # what a graph does that keeps the cells of the size it was traced at
    monkeypatch.setattr(
        "sceneparse.layers.pooling.pooling_matrix",
        lambda size, grid, like: torch.full((grid, 25 if grid == 20 else 17), 0.04),
    )
    with pytest.raises((export.ExportMismatchError, Exception)):
        export.export_onnx(described, path)
    assert not path.exists()


@pytest.mark.fault(51)
def test_wrong_numbers_remove_the_file(
    tmp_path: Path, described: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    run = export.OnnxNetwork.run
    monkeypatch.setattr(export.OnnxNetwork, "run", lambda self, images: run(self, images) * 1.01)
    with pytest.raises(export.ExportMismatchError, match="computes something else"):
        export.export_onnx(described, path)
    assert not path.exists()


def test_tools_run_exported_files(
    make_run: Any, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    assert call(eval_miou, run, "--workers", 0) == 0
    expected = json.loads((run / "eval_val/eval.json").read_text())["mean_iou"]
    for kind in ("onnx", "safetensors"):
        assert call(export_tool, run, "--format", kind) == 0
        assert capsys.readouterr().out.count("difference at") == 3
        assert call(eval_miou, run / f"model.{kind}", "--workers", 0) == 0
        scores = json.loads((run / f"eval_val_model_{kind}/eval.json").read_text())
        assert scores["mean_iou"] == pytest.approx(expected, abs=1e-3)
    assert call(eval_miou, run, "--workers", 0, "--dtype", "float32") == 0
    scores = json.loads((run / "eval_val/eval.json").read_text())
    assert scores["mean_iou"] == pytest.approx(expected, abs=1e-3)
    assert scores["how"]["precision"] == "float32, norms folded"
    image = next((scenes / "val/images").iterdir())
    assert call(predict, run / "model.onnx", image, "--output", tmp_path / "predictions") == 0
    assert (tmp_path / "predictions/index" / f"{image.stem}.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--output", "model.pt"], "--output must end in .onnx"),
        (["--format", "onnx", "--fixed", "0", "5"], "--fixed takes a height and a width"),
    ],
)
def test_bad_options_are_named(
    make_run: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(export_tool, make_run(), *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises(InputError, match="does not exist"):
        sceneparse.Predictor(path)
    path.write_bytes(b"no network")
    with pytest.raises(InputError, match="is damaged, or not an export"):
        sceneparse.Predictor(path)
