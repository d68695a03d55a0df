"""Exported files compute the same as their models, at sizes they were not traced at."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_prepare import NETWORKS, trained
from test_train_seg import call
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

import sceneparse
from sceneparse import export
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import export as export_command
from sceneparse.cli import predict as predict_command
from sceneparse.data.datasets import create_dataset
from sceneparse.data.resizing import Resize
from sceneparse.errors import InputError
from sceneparse.export.quantization import calibration_images, quantize
from sceneparse.inference.predictor import load_picture
from sceneparse.layers.pooling import pool_to_grid, pooling_matrix
from sceneparse.models.stored import resolve_checkpoint
from tests.conftest import ROOT, MakeRun

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'sceneparse[export]'")

FORMATS: dict[str, Callable[..., list[str]]] = {
    "onnx": export.export_onnx,
    "pt2": export.export_pt2,
}


@pytest.mark.parametrize("grid", [1, 2, 3, 6, 12, 20])
def test_matrices_pool_as_adaptive_pooling(grid: int) -> None:
    for height, width in ((1, 7), (13, 20), (20, 41), (64, 127)):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        rows, columns = (pooling_matrix(size, grid, x) for size in (height, width))
        expected = F.adaptive_avg_pool2d(x, grid)
        torch.testing.assert_close(rows @ x @ columns.T, expected, rtol=0, atol=1e-12)


def described(name: str) -> Any:
    """Return a network with the description of one from a training run."""
    model: Any = trained(NETWORKS[name])
    names, colors = [f"class {k}" for k in range(5)], [[k, 2 * k, 3 * k] for k in range(5)]
    model.meta |= {"classes": names, "colors": colors, "mean": [0.4] * 3, "std": [0.2] * 3}
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file to read."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export.export_onnx(described("head fcn"), path, fixed=(33, 33))
    return path


def noise(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def all_networks(*quick: str) -> pytest.MarkDecorator:
    """All of them; by default those with pools of both kinds and blocks with odd shapes."""
    names = [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in NETWORKS]
    return pytest.mark.parametrize("name", names)


@all_networks("head strip_pooling", "attention triplet")
def test_onnx_is_the_model(name: str, tmp_path: Path) -> None:
    model, path = described(name), tmp_path / "model.onnx"
    assert len(export.export_onnx(model, path)) == 3
    assert list(tmp_path.iterdir()) == [path]
    predictor = sceneparse.Predictor(path)
    assert predictor.model.classes == model.classes
    whole = sceneparse.Predictor(model, amp="off")
    for size in ((61, 83), (129, 100)):
        expected, found = whole(noise(*size)), predictor(noise(*size))
        assert (found.labels == expected.labels).mean() > 0.999
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_in_and_labels_out(kind: str, tmp_path: Path) -> None:
    model, path = described("head fcn"), tmp_path / f"labels.{kind}"
    FORMATS[kind](model, path, normalize=True, argmax=True)
    image = noise(70, 51)
    pixels = image.transpose(2, 0, 1)[None].astype(np.float32)
    expected = sceneparse.Predictor(model, amp="off", protocol="whole")(image).labels
    assert (run_by_others(path, pixels)[0] == expected).mean() > 0.999
    if kind == "onnx":
        assert (sceneparse.Predictor(path)(image).labels == expected).mean() > 0.999


def run_by_others(path: Path, images: Any) -> Any:
    """Run a file without this package."""
    import onnxruntime  # noqa: PLC0415 - may be missing

    if path.suffix == ".onnx":
        (found,) = onnxruntime.InferenceSession(path).run(None, {"images": images})
        return found
    return torch.export.load(path).module()(torch.from_numpy(images)).numpy()


def test_nothing_is_reported_to_the_makers_of_the_runtime(exported: Path, tmp_path: Path) -> None:
    code = "import sys, sceneparse; sceneparse.Predictor(sys.argv[1])"
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    variables.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", code, str(exported)]
    subprocess.run(command, env=variables, cwd=ROOT, check=True)
    # There it would keep a number for its reports.
    assert not (tmp_path / ".ses").exists()


@all_networks("head strip_pooling")
def test_pt2_is_the_model_in_plain_pytorch(name: str, tmp_path: Path) -> None:
    model, path = described(name), tmp_path / "model.pt2"
    assert len(export.export_pt2(model, path)) == 3
    assert list(tmp_path.iterdir()) == [path]
    extra = {"sceneparse": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["sceneparse"])["classes"] == model.classes
    for size in ((1, 3, 97, 161), (3, 3, 200, 133), (1, 3, 301, 77)):
        images = torch.randn(*size)
        with torch.inference_mode():
            expected = model(images, upsample=False)["out"]
        np.testing.assert_allclose(run_by_others(path, images.numpy()), expected, atol=1e-4)


@pytest.mark.fault(51)
def test_graph_with_the_traced_size_in_it_is_removed(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    path = run / "model.onnx"
    path.write_bytes(b"of an earlier export")
    # The grid cells of the traced size, for every size.
    monkeypatch.setattr("sceneparse.layers.pooling.pool_to_grid", baked)
    assert call(export_command, run, "--format", "onnx") == 1
    assert "model.onnx computes something else than its model" in capsys.readouterr().err
    assert not list(run.glob("*model*"))


def baked(x: torch.Tensor, grid: int) -> torch.Tensor:
    """Pool as exporters do that store the cells as constants."""
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, grid)
    like = torch.zeros(())
    rows, columns = pooling_matrix(17, grid, like), pooling_matrix(24, grid, like)
    resized = F.interpolate(x, (17, 24), mode="nearest")
    return rows @ resized @ columns.T


@pytest.mark.fault(51)
@pytest.mark.parametrize("kind", FORMATS)
def test_file_of_other_weights_is_removed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = described("head fcn"), tmp_path / f"model.{kind}"
    trace = torch.export.export if kind == "pt2" else torch.onnx.export

    def traced(graph: Any, *arguments: Any, **options: Any) -> Any:
        other = copy.deepcopy(graph)
        other.model.head.classifier[-1].weight.mul_(1.01)
        return trace(other, *arguments, **options)

    monkeypatch.setattr(torch.export if kind == "pt2" else torch.onnx, "export", traced)
    with pytest.raises(export.ExportMismatchError, match="computes something else"):
        FORMATS[kind](model, path)
    assert not list(tmp_path.iterdir())


def test_tools_run_exported_files(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(head="fcn")
    expected = mean_iou_of(run, "--dtype", "float32")
    assert expected == pytest.approx(mean_iou_of(run), abs=1e-3)
    for kind in ("onnx", "pt2", "safetensors"):
        assert call(export_command, run, "--format", kind) == 0
        assert capsys.readouterr().out.count("difference at") == 3
        if kind != "pt2":
            assert mean_iou_of(run / f"model.{kind}") == pytest.approx(expected, abs=1e-3)
    how = json.loads((run / "eval_val_model_onnx/eval.json").read_text())["how"]
    assert how["precision"] == "float32, by ONNX Runtime"
    image = next((scenes / "val/images").iterdir())
    assert (
        call(predict_command, run / "model.onnx", image, "--output", tmp_path / "predictions") == 0
    )
    assert (tmp_path / "predictions/index" / f"{image.stem}.png").is_file()


def test_pt2_files_are_for_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"never read")
    monkeypatch.setattr(torch.export, "load", pytest.fail)
    for tool, inputs in ((evaluate_command, []), (predict_command, [tmp_path / "image.png"])):
        assert call(tool, path, *inputs) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "model.pt2': .pt2 files are for other programs; use an ONNX file instead" in line
        assert "sceneparse export RUN --format onnx" in line
    assert list(tmp_path.iterdir()) == [path]


def mean_iou_of(source: Path, *options: object) -> float:
    assert call(evaluate_command, source, "--workers", 0, "--bootstrap", 0, *options) == 0
    suffix = f"_{source.name.replace('.', '_')}" if source.is_file() else ""
    folder = source.parent if source.is_file() else source
    scores = json.loads((folder / f"eval_val{suffix}/eval.json").read_text())
    return float(scores["mean_iou"])


def test_int8_labels_nearly_alike(
    make_run: MakeRun, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(head="fcn")
    given = ("--format", "onnx", "--int8", "--calibrate", scenes, "--images", 8)
    assert call(export_command, run, *given) == 0
    assert capsys.readouterr().out.count("equal labels at scale") >= 4
    assert call(export_command, run, "--format", "onnx") == 0
    whole, small = run / "model.onnx", run / "model_int8.onnx"
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    assert operators(small) >= {"QuantizeLinear", "DequantizeLinear"}
    assert mean_iou_of(small) == pytest.approx(mean_iou_of(run), abs=0.02)
    assert sceneparse.Predictor(small).precision == "int8, by ONNX Runtime"


def test_int8_is_calibrated_on_images_as_training_resized_them(scenes: Path) -> None:
    dataset = create_dataset("folder", scenes, "train")
    meta = {"classes": dataset.table.names, "data": {"resize": {"long": 48}}}
    found = calibration_images(scenes, "train", meta, len(dataset))
    trained_on = dataset.resized(Resize("long", 48))
    assert {image.shape for image in found} == {(32, 48, 3)}
    assert all((image == trained_on[k][0]).all() for k, image in enumerate(found))


@all_networks("head strip_pooling", "head psp")
def test_opencv_runs_files_of_a_fixed_size(name: str, tmp_path: Path) -> None:
    if not name.startswith("head "):
        pytest.skip("OpenCV 5 cannot run some attention blocks; it says so")
    model, path = described(name), tmp_path / "model.onnx"
    export.export_onnx(model, path, fixed=(65, 97))
    images = torch.randn(1, 3, 65, 97)
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(images.numpy())
    with torch.inference_mode():
        expected = model(images, upsample=False)["out"].numpy()
    np.testing.assert_allclose(net.forward(), expected, atol=1e-3 * np.abs(expected).max())


def test_int8_file_warns_of_images_smaller_than_it_was_checked_with(
    tmp_path: Path, scenes: Path
) -> None:
    model, path = described("head fcn"), tmp_path / "model.onnx"
    photos = sorted((scenes / "train/images").glob("*"))[:8]
    images = [load_picture(photo) for photo in photos]
    lines = export.export_onnx(model, path, int8_images=images)
    assert [line.split(":")[0] for line in lines[:5]] == [
        *(f"equal labels at scale {k}" for k in ("1.25 (81 x 121)", "1 (65 x 97)")),
        *(f"equal labels at scale {k}" for k in ("0.9 (59 x 87)", "0.75 (49 x 73)")),
        "equal labels at scale 0.5 (33 x 49)",
    ]
    predictor = sceneparse.Predictor(path)
    checked = predictor.model.meta["export"]["checked"]
    assert [size[:2] for size in checked[1:3]] == [[65, 97], [59, 87]]
    small = images[-1][:22, :30]
    whole = sceneparse.Predictor(model, amp="off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predictor(images[-1])
        # the share that was measured is that of the four images kept out of calibration
        equal = (found.labels == whole(images[-1]).labels).mean()
        assert abs(equal - checked[1][2]) < 0.05
        predictor(images[-1].transpose(1, 0, 2))  # upright
    with pytest.warns(UserWarning, match=r"int8 file for images of \d+ x \d+ or more, got 25 x 33"):
        predictor(small)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor(small)  # once


def operators(path: Path) -> set[str]:
    import onnx  # noqa: PLC0415 - may be missing

    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize(
    ("float_layers", "expected"),
    [(None, [True, True, False, False]), (0, [False] * 4), (1, [True, False, False, False])],
)
def test_narrow_first_layers_stay_float(
    tmp_path: Path, float_layers: int | None, expected: list[bool]
) -> None:
    import onnx  # noqa: PLC0415 - may be missing

    net = nn.Sequential(
        nn.Conv2d(3, 40, 3),
        nn.Conv2d(40, 40, 3, groups=40),
        nn.Conv2d(40, 40, 1),
        nn.Conv2d(40, 16, 1),
    )
    path = tmp_path / "net.onnx"
    images = torch.rand(1, 3, 9, 9)
    names = {"input_names": ["images"], "dynamo": True, "verbose": False}
    torch.onnx.export(net.eval(), (images,), path, **names)  # type: ignore[call-overload]
    quantize(path, [images], float_layers)
    graph = onnx.load(path).graph
    weights = {weight.name for weight in graph.initializer}
    kept = [node.input[1] in weights for node in graph.node if node.op_type == "Conv"]
    assert kept == expected


class PooledThenWeighted(nn.Module):
    """Pools maps to a grid by two products with matrices, and multiplies it by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pool_to_grid(x, 6) @ self.weight


def test_int8_pools_smaller_images_than_those_of_the_calibration(tmp_path: Path) -> None:
    import onnx  # noqa: PLC0415 - may be missing
    import onnxruntime  # noqa: PLC0415 - may be missing

    net, path = PooledThenWeighted().eval(), tmp_path / "net.onnx"
    # The same cells of one value, in more and in fewer pixels.
    cells = torch.rand(1, 3, 6, 6)
    images, small = (F.interpolate(cells, size) for size in ((60, 72), (30, 36)))
    options: Any = {"input_names": ["images"], "dynamo": True, "verbose": False}
    free = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    torch.onnx.export(net, (images,), path, dynamic_shapes=free, **options)
    quantize(path, [images], None)
    products = [node for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
    quantized = ["DequantizeLinear" in name for node in products for name in node.input]
    assert quantized == [False] * 4 + [True] * 2
    # As written, since processors without VNNI saturate in the sums of fused int8 products.
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), plain, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": small.numpy()})
    expected = cells @ net.weight
    assert (torch.from_numpy(found) - expected).abs().max() <= 0.02 * expected.max()


@pytest.mark.fault(51)
def test_int8_fitted_to_other_images_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    # Calibrated on black images only, so that all other ranges are unknown; compared on noise.
    images = [np.zeros((65, 97, 3), np.uint8)] * 4 + [noise(65, 97, seed) for seed in range(4)]
    with pytest.raises(export.ExportMismatchError, match="predicts other labels than its model"):
        export.export_onnx(described("head fcn"), path, int8_images=images)
    assert not list(tmp_path.iterdir())


def test_fixed_size(tmp_path: Path) -> None:
    model, path = described("head fcn"), tmp_path / "model.onnx"
    (line,) = export.export_onnx(model, path, fixed=(65, 97))
    assert line.startswith("difference at 1 x 65 x 97")
    image = noise(60, 90)
    expected = sceneparse.Predictor(model, amp="off")(image).labels
    assert (sceneparse.Predictor(path)(image).labels == expected).mean() > 0.999
    other = noise(100, 97)
    with pytest.raises(InputError, match="takes images of 65 x 97 only, got 105 x 97"):
        sceneparse.Predictor(path)(other)
    windows = {"protocol": "slide", "crop": (65, 97)}
    expected = sceneparse.Predictor(model, amp="off", **windows)(other).labels
    assert (sceneparse.Predictor(path, **windows)(other).labels == expected).mean() > 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--output", "model.pt"], "--output must end in .onnx"),
        (["--format", "onnx", "--fixed", "0", "5"], "--fixed: must be 1 or more, got '0'"),
        (["--format", "onnx", "--int8"], "--int8 and --calibrate DATA must be given together"),
        (
            ["--format", "pt2", "--fixed", "65", "97"],
            "--format pt2 cannot be combined with --fixed",
        ),
        (["--format", "safetensors", "--argmax"], "safetensors cannot be combined with --argmax"),
        (
            ["--format", "onnx", "--int8", "--calibrate", "nowhere"],
            "data folder 'nowhere' does not exist",
        ),
    ],
)
def test_bad_options_are_named(
    make_run: MakeRun, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(export_command, make_run(), *arguments) == 2
    assert message in capsys.readouterr().err


def test_weights_of_a_checkpoint_are_not_overwritten(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    last = make_run() / "last"
    weights = resolve_checkpoint(last) / "model.safetensors"
    before = weights.read_bytes()
    assert call(export_command, last, "--format", "safetensors") == 2
    assert "the checkpoint's own weights; give another --output" in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_network_from_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this model has no classes"):
        export.export_onnx(trained(NETWORKS["head fcn"]), tmp_path / "model.onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".onnx", "is damaged, or no ONNX file"), (".safetensors", "damaged or not a weights file")],
)
def test_damaged_files_are_named(tmp_path: Path, suffix: str, message: str) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises(InputError, match="does not exist"):
        sceneparse.Predictor(path)
    path.write_bytes(b"no network")
    with pytest.raises(InputError, match=message):
        sceneparse.Predictor(path)


def test_onnx_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(
        torch.nn.ReLU().eval(), (torch.zeros(1, 3, 8, 8),), path, dynamo=True, verbose=False
    )
    with pytest.raises(InputError, match="is not an export of this package; to evaluate"):
        sceneparse.Predictor(path)


def test_onnx_data_outside_the_file_are_not_read(exported: Path, tmp_path: Path) -> None:
    import onnx  # noqa: PLC0415 - may be missing
    import onnxruntime  # noqa: PLC0415

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24):
        pytest.skip("before 1.24, ONNX Runtime reads them")

    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model.onnx"
    model = onnx.load(exported)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    size = len(weight.raw_data)
    (tmp_path / "secret").write_bytes(bytes(size))
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    onnx.save(model, path)
    with pytest.raises(InputError, match="is damaged, or no ONNX file"):
        sceneparse.Predictor(path)


def test_what_is_missing_is_named(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime is not installed; run: pip install"):
        sceneparse.Predictor(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "there is no GPU 'cuda'|runs on cpu only"),
        ({"amp": "bf16"}, "computes in float32, by ONNX Runtime; omit amp"),
        ({"dtype": "bfloat16"}, "the type of an exported network is fixed"),
    ],
)
def test_options_that_a_file_cannot_have(
    options: dict[str, str], message: str, exported: Path
) -> None:
    with pytest.raises(InputError, match=message):
        sceneparse.Predictor(exported, **options)  # type: ignore[arg-type]


def test_prediction_imports_no_training() -> None:
    program = (
        "import sys, sceneparse; sceneparse.Predictor;"
        "print(*(m for m in sys.modules if m.startswith(('sceneparse.', 'albumentations.'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = {name.removeprefix("sceneparse.") for name in done.stdout.split()}
    assert "inference.networks" in imported
    training = {"losses", "data.loader", "data.transforms", "albumentations.core"}
    assert not imported & training
    assert not [name for name in imported if name.split(".")[0] in {"training", "config"}]


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
def test_folder_that_cannot_be_written_is_named(
    kind: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"/proc/self/model.{kind}"
    run = make_run(head="fcn")
    assert call(export_command, run, "--format", kind, "--output", path) == 2
    printed = capsys.readouterr()
    assert f"error: cannot write '{path}': " in printed.err.splitlines()[-1]
    assert "tracing" not in printed.out + printed.err  # before work of minutes
