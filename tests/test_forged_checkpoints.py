"""Checkpoints and weights made to do harm: nothing runs, nothing is written, one clear line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from test_train_seg import call

import sceneparse
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import predict as predict_command
from sceneparse.cli import train as train_command
from sceneparse.cli import weights as weights_command
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError, NumericalError
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.models.tensor_files import read_tensors
from sceneparse.models.weights import read_weights
from sceneparse.runs.checkpoint import read_training_state
from sceneparse.runtime.distributed import Process
from sceneparse.training.run import train
from sceneparse.training.segmentation import prepare_training
from tests.conftest import ROOT, MakeRun

QUICKSTART = ROOT / "configs" / "quickstart.yaml"

pytestmark = pytest.mark.usefixtures("nothing_outside")


def forge(run: Path, name: str, content: bytes) -> Path:
    """Replace a file of a checkpoint, and the checksum that would tell."""
    folder = resolve_checkpoint(run / "last")
    (folder / name).write_bytes(content)
    seal(folder)
    return run


def seal(folder: Path) -> None:
    """Make all checksums of a checkpoint right again, as who forges one would."""
    text = (folder / "meta.json").read_text()
    try:
        meta = json.loads(text)
        meta["sha256"] = {n: sha256(folder / n) for n in ("model.safetensors", "training.pt")}
        (folder / "meta.json").write_text(json.dumps(meta))
    except (ValueError, TypeError, RecursionError):
        pass  # it is no description any more
    if (folder / "meta.json.sha256").exists():
        line = f"{sha256(folder / 'meta.json')}  meta.json\n"
        (folder / "meta.json.sha256").write_text(line)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say_no(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Predict with a checkpoint; it must end with exit code 2 and one line."""
    capsys.readouterr()
    code = call(predict_command, run, photos, "--output", run.parent / "out")
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("error: ")
    assert line.isprintable()
    return line


# Checkpoints


def header_only(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def tensor_entry(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


WEIGHTS: dict[str, bytes] = {
    "nothing": b"",
    "endless header": struct.pack("<Q", 2**63) + b"{}",
    "header of 4 GB": struct.pack("<Q", 2**32) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"\x80\x04N.",
    "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "beyond the end": header_only({"a": tensor_entry([2**40], 0, 2**42)}),
    "negative": header_only({"a": tensor_entry([1], -4, 0)}) + bytes(4),
    "overlapping": header_only({"a": tensor_entry([2], 0, 8), "b": tensor_entry([2], 4, 12)})
    + bytes(12),
    "overflowing shape": header_only({"a": tensor_entry([2**62, 2**62], 0, 4)}) + bytes(4),
    "other tensors": save({"../../outside": torch.ones(3), "\x1b[2Jb\nc": torch.ones(2)}),
    "a pickle": pickle.dumps(os.getcwd),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_forged_weights(
    name: str, make_run: MakeRun, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = forge(make_run(), "model.safetensors", WEIGHTS[name])
    say_no(run, scenes / "val/images", capsys)


def with_meta(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        change(meta)
        (folder / "meta.json").write_text(json.dumps(meta))

    return edit


def with_model(**arguments: Any) -> Callable[[Path], None]:
    return with_meta(lambda meta: meta["model"].update(arguments))


def with_values(**values: Any) -> Callable[[Path], None]:
    return with_meta(lambda meta: meta.update(values))


def with_text(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "meta.json").write_text(text)


def numpy_number(value: Any, state: bytes) -> bytes:
    """A file of one numpy number; `state` replaces what follows the byte order of its type."""
    plain, forged = io.BytesIO(), io.BytesIO()
    torch.save({"score": value}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(forged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert content.count(_STATE) == 1
                content = content.replace(_STATE, state)
            target.writestr(name, content)
    return forged.getvalue()


_STATE = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"


def test_numpy_numbers_are_read_without_numpy(tmp_path: Path) -> None:
    """Found by fuzzing: numpy crashes over a type whose state is cut short."""
    path = tmp_path / "x.pth"
    for value in (np.float64(1.5), np.float32(-2.5), np.int64(3), np.dtype(">i4").type(7)):
        path.write_bytes(numpy_number(value, _STATE))
        assert read_tensors(path) == {"score": value}
    path.write_bytes(numpy_number(np.float64(1.5), _STATE[2:]))
    assert read_tensors(path) == {"score": 1.5}
    path.write_bytes(numpy_number(np.complex128(1j), _STATE))
    with pytest.raises(InputError, match="numpy numbers of type 'c16'"):
        read_tensors(path)


METAS: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep": (with_text("[" * 200_000), "nested too deeply"),
    "deep inside": (
        with_text('{"model": ' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}"),
        "nested too deeply|does not describe|'format' is missing",
    ),
    "huge": (with_text('{"a": "' + "x" * 2**24 + '"}'), "larger than"),
    "no text": (with_text("\x00\x01"), "JSON"),
    "a list": (with_text("[]"), "does not describe a model"),
    "digits": (with_text('{"model": ' + "9" * 5000 + "}"), "JSON"),
    "terabytes": (with_model(base_width=8_000_000), "does not fit|does not describe"),
    "many classes": (with_model(num_classes=10**12), "does not fit"),
    "wide": (with_model(width=4 * 10**15), "overflow"),
    "dilated": (with_model(multi_grid=[1, 10**12]), "multi_grid"),
    "unknown argument": (with_model(__class__="x", code="import os"), "does not describe"),
    "wrong type": (with_model(num_classes=["import os"]), "num_classes"),
    "network of the hub": (with_model(backbone="hf-hub:someone/evil"), "unknown backbone"),
    "path as backbone": (with_model(backbone="local-dir:/etc"), "unknown backbone"),
    "model": (with_values(model="__import__('os').mkdir('owned')"), "model: "),
    "classes": (with_values(classes=[1, 2]), "classes.0"),
    "terminal": (with_values(classes=["a\x1b]0;owned\x07"] * 9), "cannot be printed"),
    "long name": (with_values(classes=["a" * 10**6] * 9), "classes.0"),
    "colors": (with_values(colors=[[0, 0, 999]] * 9), "colors.0.2"),
    "few colors": (with_values(colors=[[0, 0, 9]] * 8), "8 colors for 9 classes"),
    "no colors": (with_values(colors=[]), "0 colors for 9 classes"),
    "mean": (with_values(mean=[float("nan")] * 3), "mean.0"),
    "std": (with_values(std=[0, 0, 0]), "std.0"),
    "data": (with_values(data=[1]), "data: "),
    "protocol": (with_values(eval={"name": "whole", "__code__": 1}), "eval.__code__"),
    "scale": (with_values(eval={"name": "spnet", "scales": [1e9]}), "scales must be"),
    "window": (with_values(eval={"name": "slide", "crop": [10**9] * 2}), "a window needs"),
    "precision": (with_values(config={"train": []}), "config.train"),
}


@pytest.mark.parametrize("name", METAS)
def test_forged_description(
    name: str, make_run: MakeRun, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    folder = resolve_checkpoint(run / "last")
    change, expected = METAS[name]
    change(folder)
    seal(folder)
    line = say_no(run, scenes / "val/images", capsys)
    assert any(part in line for part in expected.split("|")), line


def test_names_of_a_checkpoint_lead_nowhere(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluation goes to the data that the checkpoint names; no name may lead out of it."""
    run = make_run()
    with_meta(lambda meta: meta["data"].update(val_split="../" * 8 + "etc/passwd.txt"))(
        resolve_checkpoint(run / "last")
    )
    seal(resolve_checkpoint(run / "last"))
    assert call(evaluate_command, run, "--workers", 0) == 2
    assert "lies outside the data folder" in capsys.readouterr().err


class Owned:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned",)


def torch_bytes(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


PICKLES: dict[str, bytes] = {
    "pickle": pickle.dumps(Owned()),
    "torch.save": torch_bytes(Owned()),
    "torch.save of old": torch_bytes(Owned(), _use_new_zipfile_serialization=False),
    "inside": torch_bytes({"state_dict": {"a": torch.ones(2)}, "epoch": Owned()}),
    "method of numpy": pickle.dumps(getattr),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_not_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "training.pt").write_bytes(PICKLES[name])
    with pytest.raises(InputError, match=r"training\.pt: (refused|damaged)"):
        read_training_state(tmp_path)
    with pytest.raises(InputError, match=r"training\.pt: (refused|damaged)"):
        read_weights(tmp_path / "training.pt")
    code = call(weights_command, tmp_path / "training.pt", tmp_path / "out.safetensors")
    assert code == 2
    assert not (tmp_path / "out.safetensors").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of two epochs that was stopped after the first, and its settings."""
    root = tmp_path_factory.mktemp("forged")
    write_dataset(root / "data", {"train": 4, "val": 1}, size=(48, 64))
    settings = [
        f"data.root={root / 'data'}",
        *("data.workers=0", "augment.crop=[32,48]", "model.base_width=8", "model.width=8"),
        *("train.epochs=2", "train.batch_size=4", "optim.name=adamw"),
    ]
    config = load_config(QUICKSTART, [*settings, f"output={root / 'run'}"], SegConfig)
    training = prepare_training(config, Process(0, 1, torch.device("cpu")))
    training.epochs = 1
    train(training)
    return root / "run", settings


def the_first(state: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = state["stepper"]["optimizer"][name][0]
    return found


STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "as it was": lambda state: None,
    "nothing": lambda state: state.clear(),
    "position": lambda state: state.update(position={"epoch": "os.system", "step": 0}),
    "far position": lambda state: state.update(position={"epoch": 10**30, "step": 0}),
    "strings": lambda state: state.update(stepper="stepper"),
    "weights": lambda state: state.update(model={"a": torch.ones(3)}),
    "sparse weights": lambda state: state["model"].update(
        {name: tensor.to_sparse() for name, tensor in state["model"].items() if tensor.ndim}
    ),
    "moments": lambda state: the_first(state, "state").update(exp_avg=torch.ones(7)),
    "schedule": lambda state: state["stepper"].update(schedule={"last_epoch": [1]}),
    "bends": lambda state: state["stepper"]["schedule"].update(bends=[[2, 2]]),
    "replans": lambda state: state["position"].update(replans=[{"step": 1}]),
    "endless": lambda state: state["position"].update(used=float("inf")),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STATES)
def test_forged_training_state(
    name: str,
    trained: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, settings = trained
    run = shutil.copytree(source, tmp_path / "run")
    state = read_training_state(resolve_checkpoint(run / "last"))
    STATES[name](state)
    forge(run, "training.pt", torch_bytes(state))
    code = call(train_command, "--config", QUICKSTART, *settings, f"output={run}", "--resume")
    if name == "as it was":
        assert code == 0
        return
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not fit" in line or "no ordinary tensor" in line
    assert line.isprintable()


# Weights of others


def holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


ODD: dict[str, tuple[Callable[[], object], str]] = {
    "itself": (holding_itself, "expected named tensors"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "no ordinary tensor"),
    "rows": (lambda: {"a": torch.eye(3).to_sparse_csr()}, "no ordinary tensor"),
    "quantised": (
        lambda: {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
        "no ordinary tensor but quantised",
    ),
    "nested": (
        lambda: {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
        "(no ordinary tensor but nested|holds more than tensors)",  # before and since torch 2.15
    ),
    "meta": (lambda: {"a": torch.ones(3, device="meta")}, "no ordinary tensor but on meta"),
    "expanded": (lambda: {"a": torch.ones(1).expand(10**6, 10**6)}, "more numbers than the file"),
    "one number": (lambda: {"a": 1.5}, "expected named tensors"),
    "numbered": (lambda: {1: torch.ones(1)}, "expected named tensors"),
    "long name": (lambda: {"module." * 10**5: 3}, "expected named tensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD)
def test_odd_tensors_are_refused(name: str, tmp_path: Path) -> None:
    make, expected = ODD[name]
    torch.save(make(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=rf"x\.pth: .*{expected}"):
        read_weights(tmp_path / "x.pth")


def test_compressed_weights_are_refused(tmp_path: Path) -> None:
    whole = io.BytesIO(torch_bytes({"a": torch.zeros(10_000_000)}))
    packed = zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(whole) as source, packed as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert (tmp_path / "x.pth").stat().st_size < 10**6
    with pytest.raises(InputError, match=r"x\.pth: refused, it would unpack to 40,"):
        read_weights(tmp_path / "x.pth")


def test_numbers_of_another_kind_do_not_fit(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    model = sceneparse.load_model(run)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["head.classifier.1.bias"] = state["head.classifier.1.bias"].to(torch.complex64)
    save_file(state, tmp_path / "x.safetensors")
    forge(run, "model.safetensors", (tmp_path / "x.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"1 of another kind: .* \(file torch.complex64"):
        sceneparse.load_model(run)


def test_weights_that_are_no_numbers_end_at_the_first_image(
    make_run: MakeRun, scenes: Path, tmp_path: Path
) -> None:
    run = make_run()
    state = sceneparse.load_model(run).state_dict()
    state["head.classifier.1.bias"].fill_(float("nan"))
    save_file(state, tmp_path / "x.safetensors")
    forge(run, "model.safetensors", (tmp_path / "x.safetensors").read_bytes())
    code = call(predict_command, run, scenes / "val/images", "--output", tmp_path / "out")
    assert code == NumericalError.exit_code


CONFIGS = {
    "deep": "[" * 200_000,
    "no JSON": "{",
    "a list": "[]",
    "a number": "3",
    "nothing": "",
    "huge network": json.dumps({"model": {"num_classes": 10**12}}),
    "code": json.dumps({"model": {"head": "__import__('os').mkdir('owned')"}}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_forged_models_of_the_hub(name: str, make_run: MakeRun, tmp_path: Path) -> None:
    sceneparse.load_model(make_run()).save_pretrained(tmp_path / "model")  # type: ignore[union-attr]
    (tmp_path / "model/config.json").write_text(CONFIGS[name])
    with pytest.raises(InputError) as caught:
        SegmentationModel.from_pretrained(str(tmp_path / "model"))
    assert str(caught.value).isprintable()
