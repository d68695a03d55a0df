"""Checkpoints: whole or absent, verified, strict, free of code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sceneparse
from sceneparse.errors import InputError
from sceneparse.models.stored import POINTERS, read_description, read_meta, resolve_checkpoint
from sceneparse.models.weights import read_weights
from sceneparse.runs.checkpoint import newest_intact, read_training_state, save_checkpoint
from tests.conftest import newest_undamaged

MODEL = {
    "head": "fcn",
    "backbone": "resnet18",
    "num_classes": 3,
    "base_width": 8,
    "aux": False,
    "stem": "plain",
}


def save(run: Path, step: int, best_step: int = 0) -> Path:
    torch.manual_seed(step)
    model = sceneparse.create_segmentation_model(**MODEL)  # type: ignore[arg-type]
    return save_checkpoint(
        run,
        step=step,
        best_step=best_step,
        weights=model.state_dict(),
        training={"position": {"epoch": step}},
        meta={"model": MODEL, "classes": ["a", "b", "c"]},
    )


def test_last_two_and_best_are_kept_and_named(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, best_step=1)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000001", "step-00000003", "step-00000004"]
    assert resolve_checkpoint(tmp_path).name == "step-00000001"
    assert (tmp_path / "best").read_bytes() == b"checkpoints/step-00000001\n"
    last = resolve_checkpoint(tmp_path / "last")
    assert read_training_state(last) == {"position": {"epoch": 4}}


def test_old_checkpoint_that_a_reader_holds_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """Windows renames no folder while a file in it is open."""
    rename, held = Path.rename, save(tmp_path, 1)

    def refuse(path: Path, target: Path) -> Path:
        if path == held:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for step in (2, 3):
            save(tmp_path, step)
    assert held.is_dir()
    assert logged == [f"cannot remove {held}, which is no longer needed: Permission denied"]
    save(tmp_path, 4)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000004"]


def test_copies_beside_checkpoints_are_left_alone(tmp_path: Path) -> None:
    """As people, cloud drives and file managers name them."""
    first = save(tmp_path, 1)
    copies = [f"{first.name}{end}" for end in (".zip", " - Copy.zip", " 2.tar.gz")]
    for name in [*copies, "step-00000099.zip"]:
        (first.parent / name).write_bytes(b"PK")
    copy = shutil.copytree(first, first.with_name("step-00000098 - Copy"))
    assert resolve_checkpoint(tmp_path) == first
    for step in (2, 3, 4):
        save(tmp_path, step)
    kept = {path.name for path in first.parent.iterdir()}
    expected = {"step-00000003", "step-00000004", copy.name, *copies, "step-00000099.zip"}
    assert kept == expected


def with_links(run: Path) -> None:
    """Replace `last` and `best` by links, as earlier versions made them."""
    for name in POINTERS:
        target = (run / name).read_text().strip()
        (run / name).unlink()
        (run / name).symlink_to(target, target_is_directory=True)


def with_folders(run: Path) -> None:
    """Replace `last` and `best` by copies of checkpoints, as programs do that follow links."""
    for name in POINTERS:
        folder = resolve_checkpoint(run / name)
        (run / name).unlink()
        shutil.copytree(folder, run / name)


def test_models_below_the_home_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "run", 1, best_step=1)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert sceneparse.load_model("~/run").meta["step"] == 1
    assert sceneparse.load_model("~/run/best").meta["step"] == 1


@pytest.mark.parametrize("change", [with_links, with_folders])
def test_links_of_earlier_versions_are_read_and_replaced(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    for step in (1, 2):
        save(tmp_path, step, best_step=1)
    change(tmp_path)
    for name, step in (("best", 1), ("last", 2)):
        assert sceneparse.load_model(tmp_path / name).meta["step"] == step
    assert newest_undamaged(tmp_path) == newest_intact(tmp_path)
    save(tmp_path, 3, best_step=3)
    for name in POINTERS:
        assert (tmp_path / name).read_text() == "checkpoints/step-00000003\n"
        assert not (tmp_path / name).is_symlink()


def test_copied_run_names_its_own_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path / "run", step, best_step=1)
    archive = shutil.make_archive(str(tmp_path / "run"), "zip", tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for place in (tmp_path / "elsewhere", Path()):
        assert resolve_checkpoint(place / "last").parents[1] == tmp_path / "elsewhere"
        path = place / "last" / "model.safetensors"  # as it was behind a link
        for source in (place / "last", path):
            model = sceneparse.create_segmentation_model(**MODEL, pretrained=source)  # type: ignore[arg-type]
            expected = read_weights(resolve_checkpoint(place / "last") / "model.safetensors")
            assert torch.equal(
                model.state_dict()["backbone.conv1.weight"], expected["backbone.conv1.weight"]
            )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds '', but must name a checkpoint of its run, such as checkpoints/step-0"),
        (b"../other/checkpoints/step-00000001", "must name a checkpoint of its run"),
        (b"checkpoints/../step-00000001", "must name a checkpoint of its run"),
        (b"/checkpoints/step-00000001", "must name a checkpoint of its run"),
        (b"checkpoints/step-00000001\nx", r"step-00000001\\nx', but must name"),
        (b"checkpoints/step-00000009\n", "names checkpoints/step-00000009, which does not exist"),
        (b"\x80", "not UTF-8 text"),
        (b"checkpoints/step-00000001" + b" " * 2000, "larger than 1,000 bytes"),
    ],
)
def test_pointers_that_name_no_checkpoint_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    save_little(tmp_path, 1)
    (tmp_path / "last").write_bytes(content)
    for read in (resolve_checkpoint, sceneparse.load_model, sceneparse.Predictor, read_description):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "last")
    # lines that end as on Windows, and an editor's byte order mark
    (tmp_path / "last").write_bytes(b"\xef\xbb\xbfcheckpoints/step-00000001\r\n")
    assert resolve_checkpoint(tmp_path / "last") == tmp_path / "checkpoints/step-00000001"


@pytest.mark.fault(40)
def test_model_comes_back_equal_and_ready(tmp_path: Path) -> None:
    save(tmp_path, 7)
    torch.manual_seed(7)
    expected = sceneparse.create_segmentation_model(**MODEL).eval()  # type: ignore[arg-type]
    model = sceneparse.load_model(tmp_path)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(images)["out"], expected(images)["out"])
    assert model.classes == ["a", "b", "c"]
    with pytest.raises(InputError, match="this model has no classes"):
        _ = expected.classes


FILES = ["model.safetensors", "training.pt", "meta.json", "meta.json.sha256"]


def save_little(run: Path, step: int, best_step: int = 0) -> Path:
    """Save a checkpoint of a few bytes."""
    return save_checkpoint(
        run,
        step=step,
        best_step=best_step,
        weights={"w": torch.full((4,), float(step))},
        training={"position": {"epoch": step}},
        meta={"classes": ["a", "b"], "model": {}},
    )


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = save_little(tmp_path, 1) / name
    intact = path.read_bytes()
    for place in range(len(intact)):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            read_meta(path.parent)
    path.write_bytes(intact)
    assert read_meta(path.parent)["step"] == 1


DAMAGES = {
    "flipped": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
}


@pytest.mark.fault(38)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_resuming_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, logged: list[str], name: str, damage: str
) -> None:
    save_little(tmp_path, 1)
    path = save_little(tmp_path, 2) / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    saved = newest_intact(tmp_path)
    assert saved is not None
    assert read_training_state(saved.folder)["position"]["epoch"] == 1
    assert len(logged) == 1
    assert "step-00000002" in logged[0]
    assert f"falling back to {tmp_path}/checkpoints/step-00000001" in logged[0]
    # what is damaged does not take the place of a good one
    save_little(tmp_path, 2)
    save_little(tmp_path, 3)
    assert newest_undamaged(tmp_path) is not None
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.fault(38)
def test_scores_are_never_of_another_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2, best_step=2)
    for name in set(FILES) - {"training.pt"}:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(DAMAGES["flipped"](content))
        with pytest.raises(InputError, match=r"damaged.*intact beside it: .*/step-00000001$"):
            sceneparse.load_model(tmp_path)
        (folder / name).write_bytes(content)
    sceneparse.load_model(tmp_path)


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_models_load_without_what_only_resuming_reads(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path, 1) / "training.pt"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert sceneparse.load_model(tmp_path).meta["step"] == 1
    with pytest.raises(InputError, match=r"no intact checkpoint: .*training\.pt"):
        newest_intact(tmp_path)


@pytest.mark.fault(38)
def test_all_damaged_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    (save_little(tmp_path, 1) / "meta.json").write_text("{}")
    with pytest.raises(InputError, match=r"no intact checkpoint: .*start anew with --overwrite"):
        newest_intact(tmp_path)
    assert newest_intact(tmp_path / "nothing yet") is None


@pytest.mark.fault(38)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"sha256": {}}', '{"sha256": 3, "format": 1}'])
def test_damaged_meta_is_noticed(tmp_path: Path, content: str) -> None:
    (save(tmp_path, 1) / "meta.json").write_text(content)
    with pytest.raises(InputError):
        sceneparse.load_model(tmp_path)


def test_missing_checkpoint_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give a run folder"):
        resolve_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no checkpoint"):
        resolve_checkpoint(tmp_path)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("owned-by-a-pickle",)


@pytest.mark.fault(40)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th"])
def test_malicious_pickle_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for write in (
        lambda: torch.save(Malicious(), path),
        lambda: path.write_bytes(pickle.dumps(Malicious())),
    ):
        write()
        with pytest.raises(InputError, match=r"refused|damaged"):
            read_weights(path)
    assert not Path("owned-by-a-pickle").exists()


@pytest.mark.fault(41)
@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "both"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_files_are_read_in_every_usual_form(tmp_path: Path, wrap: str, suffix: str) -> None:
    tensors = {"a.weight": torch.arange(3.0), "b": torch.ones(2)}
    content: Any = tensors
    if wrap in {"module", "both"}:
        content = {f"module.{name}": value for name, value in tensors.items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save({"state_dict": content} if wrap in {"state_dict", "both"} else content, path)
    state = read_weights(path)
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


def test_real_mobilenet_weights_fill_the_backbone(shared: Path, logged: list[str]) -> None:
    path = shared / "data/weights/mobilenetv2_100.safetensors"
    model = sceneparse.create_segmentation_model(
        "fcn", "mobilenetv2_100", 11, output_stride=16, aux=False, pretrained=path
    )
    weights = read_weights(path)
    own = model.backbone.features.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(own[name], weights[name]) for name in own)
    assert set(weights) - set(own) >= {"classifier.weight", "conv_head.weight"}
    assert "its classifier.weight, its conv_head.weight" in logged[0]


def test_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail(address: str, timeout: float) -> None:
        asked.append((address.partition("/timm/")[2], timeout))
        raise OSError("no route to host")

    monkeypatch.setattr("sceneparse.models.downloads.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("sceneparse.models.downloads.get_hf_file_metadata", fail)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("tried to download"))
    with pytest.raises(InputError, match=r"cannot download .*no route to host.*elsewhere"):
        sceneparse.create_segmentation_model(
            "fcn", "resnet18", 2, stem="plain", aux=False, pretrained="imagenet"
        )
    assert asked == [("resnet18.tv_in1k/resolve/main/model.safetensors", 5)]


@pytest.mark.fault(41)
def test_weights_that_do_not_fit_are_summed_up(tmp_path: Path) -> None:
    model = sceneparse.create_segmentation_model(**MODEL)  # type: ignore[arg-type]
    state = {k: v.clone() for k, v in model.backbone.state_dict().items() if ".attention" not in k}
    state["conv1.weight"] = torch.zeros(2, 3, 7, 7)
    state["extra"] = state.pop("bn1.bias")
    state["fc.weight"] = torch.zeros(5, 5)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(InputError) as caught:
        sceneparse.create_segmentation_model(**MODEL, pretrained=path)  # type: ignore[arg-type]
    message = str(caught.value)
    for part in (
        "missing: backbone.bn1.bias",
        "unexpected: backbone.extra",
        "backbone.conv1.weight (file",
    ):
        assert part in message
    assert json.dumps([2, 3, 7, 7]) in message
