"""Exported files made to do harm: nothing runs, nothing is written, one clear line."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_export import described, noise

import sceneparse
from sceneparse import export
from sceneparse.errors import InputError

Entries = dict[str, bytes]
Graph = dict[str, Any]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """The entries of a good .pt2 file."""
    path = tmp_path_factory.mktemp("good") / "model.pt2"
    pytest.importorskip("onnxruntime")
    export.export_pt2(described("head fcn"), path)
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(path: Path, entries: Entries, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def changed(entries: Entries, name: str, change: Callable[[Any], None]) -> Entries:
    """Change the JSON of an entry, given by the end of its name."""
    (full,) = (key for key in entries if key.endswith(name))
    content = json.loads(entries[full])
    change(content)
    return {**entries, full: json.dumps(content).encode()}


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def bomb(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Touch(path), buffer)
    return buffer.getvalue()


def call_of(target: str, **arguments: Any) -> dict[str, Any]:
    inputs = [{"name": key, "arg": value, "kind": 1} for key, value in arguments.items()]
    return {"target": target, "inputs": inputs, "outputs": [], "metadata": {}}


def first_call(entries: Entries, call: dict[str, Any]) -> Entries:
    def add(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"].insert(0, call)

    return changed(entries, "models/model.json", add)


def test_the_archive_is_whole_without_changes(entries: Entries, tmp_path: Path) -> None:
    predictor = sceneparse.Predictor(write(tmp_path / "model.pt2", entries), amp="off")
    expected = sceneparse.Predictor(described("head fcn"), amp="off")(noise(40, 50)).labels
    assert np.array_equal(predictor(noise(40, 50)).labels, expected)


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_pickles_are_never_opened(entries: Entries, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    samples = {name for name in entries if name.endswith("sample_inputs/model.pt")}
    assert samples
    forged = {**entries, **dict.fromkeys(samples, bomb(ran))}
    # Not needed, so it lies there unread.
    assert sceneparse.Predictor(write(tmp_path / "samples.pt2", forged))(noise(40, 50))
    prefix = next(iter(samples)).partition("/")[0]
    legacy = {**entries, f"{prefix}/data/weights/model.pt": bomb(ran)}
    assert sceneparse.Predictor(write(tmp_path / "legacy.pt2", legacy))(noise(40, 50))

    def pickled(table: Any) -> None:
        next(iter(table["config"].values()))["use_pickle"] = True

    weights = {name: bomb(ran) for name in entries if name.endswith("weights/weight_0")}
    forged = changed({**entries, **weights}, "model_weights_config.json", pickled)
    with pytest.raises(InputError, match="is pickled, which could run code"):
        sceneparse.Predictor(write(tmp_path / "weights.pt2", forged))
    assert not ran.exists()


def object_constant(entries: Entries, ran: Path) -> Entries:
    (table,) = (name for name in entries if name.endswith("model_constants_config.json"))
    fact = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    constants = json.dumps({"config": {"thing": fact}}).encode()
    folder = table.rpartition("/")[0]
    return {**entries, table: constants, f"{folder}/opaque_obj_0": bomb(ran)}


def formula(entries: Entries, ran: Path) -> Entries:
    """A size given as a formula, which torch.export.load hands to sympy, which evaluates it."""

    def replace(model: Any) -> None:
        code = f"__import__('os').mkdir('{ran}')"
        for value in model["graph_module"]["graph"]["sym_int_values"].values():
            value["as_expr"]["expr_str"] = code
        model["guards_code"] = [code]

    return changed(entries, "models/model.json", replace)


def shell(entries: Entries, ran: Path) -> Entries:
    command = {"as_string": f"mkdir {ran}"}
    return first_call(entries, call_of("torch.os.system", command=command))


def loading(entries: Entries, ran: Path) -> Entries:
    (ran.parent / "bomb.pt").write_bytes(bomb(ran))
    path = {"as_string": str(ran.parent / "bomb.pt")}
    return first_call(entries, call_of("torch.serialization.load", f=path))


def mapped_file(entries: Entries, ran: Path) -> Entries:
    """An operator of aten that creates the file that it maps."""
    arguments = {"filename": {"as_string": str(ran)}, "shared": {"as_bool": True}}
    arguments["size"] = {"as_int": 8}
    return first_call(entries, call_of("torch.ops.aten.from_file.default", **arguments))


def attribute(entries: Entries, ran: Path) -> Entries:
    return first_call(entries, call_of("torch.ops.aten.add.__class__"))


@pytest.mark.parametrize(
    "forge", [object_constant, shell, loading, mapped_file, attribute], ids=lambda f: f.__name__
)
def test_graphs_call_nothing_else(
    forge: Callable[[Entries, Path], Entries], entries: Entries, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    path = write(tmp_path / "model.pt2", forge(entries, ran))
    with pytest.raises(InputError, match="refused: ") as refused:
        sceneparse.Predictor(path)
    assert len(str(refused.value).splitlines()) == 1
    assert not ran.exists()


def test_formulas_are_never_evaluated(entries: Entries, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = write(tmp_path / "model.pt2", formula(entries, ran))
    assert sceneparse.Predictor(path, amp="off")(noise(40, 50))
    assert not ran.exists()


def test_small_files_do_not_stand_for_much(entries: Entries, tmp_path: Path) -> None:
    (weight,) = (name for name in entries if name.endswith("weights/weight_0"))
    large = {**entries, weight: bytes(200_000_000)}
    path = write(tmp_path / "model.pt2", large, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed, or its entries overlap"):
        sceneparse.Predictor(path)


def beyond(meta: dict[str, Any]) -> None:
    meta["sizes"] = [{"as_int": 10**9}]
    meta["strides"] = [{"as_int": 1}]


def before(meta: dict[str, Any]) -> None:
    meta["storage_offset"] = {"as_int": -64}


def repeated(meta: dict[str, Any]) -> None:
    meta["sizes"] = [{"as_int": 10**4}, {"as_int": 10**4}]
    meta["strides"] = [{"as_int": 0}, {"as_int": 0}]


@pytest.mark.parametrize("change", [beyond, before, repeated], ids=lambda f: f.__name__)
def test_weights_show_no_more_than_the_file_holds(
    change: Callable[[dict[str, Any]], None], entries: Entries, tmp_path: Path
) -> None:
    def forge(table: Any) -> None:
        change(next(iter(table["config"].values()))["tensor_meta"])

    forged = changed(entries, "model_weights_config.json", forge)
    with pytest.raises(InputError, match=r"model\.pt2"):
        sceneparse.Predictor(write(tmp_path / "model.pt2", forged))


@pytest.mark.parametrize("missing", ["model.json", "extra/sceneparse", "model_weights_config.json"])
def test_missing_entries_are_named(missing: str, entries: Entries, tmp_path: Path) -> None:
    rest = {name: content for name, content in entries.items() if not name.endswith(missing)}
    with pytest.raises(InputError, match=f"{missing}.* is missing"):
        sceneparse.Predictor(write(tmp_path / "model.pt2", rest))


def test_values_that_no_call_made_are_named(entries: Entries, tmp_path: Path) -> None:
    def forge(model: Any) -> None:
        nodes = model["graph_module"]["graph"]["nodes"]
        del nodes[[node["target"] for node in nodes].index("torch.ops.aten.conv2d.default")]

    path = write(tmp_path / "model.pt2", changed(entries, "models/model.json", forge))
    predictor = sceneparse.Predictor(path, amp="off")
    with pytest.raises(InputError, match="cannot run"):
        predictor(noise(40, 50))


def test_onnx_data_outside_the_file_are_not_read(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model.onnx"
    export.export_onnx(described("head fcn"), path, fixed=(33, 33))
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    size = len(weight.raw_data)
    (tmp_path / "secret").write_bytes(bytes(size))
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    onnx.save(model, path)
    with pytest.raises(InputError, match="is damaged, or not an export"):
        sceneparse.Predictor(path)
