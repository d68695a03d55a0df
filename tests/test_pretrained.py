"""Fine-tuning: what is taken from a run, a file or ImageNet, and the line that tells it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sceneparse
from sceneparse.cli import train as train_command
from sceneparse.errors import InputError
from sceneparse.models.downloads import ATTEMPT_SECONDS
from sceneparse.models.pretrained import load_pretrained
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.runs.checkpoint import save_checkpoint
from tests.conftest import MakeRun
from tests.test_train_seg import QUICKSTART, call, folder_of

SMALL: dict[str, Any] = {
    "head": "fcn",
    "backbone": "resnet18",
    "base_width": 8,
    "width": 8,
    "output_stride": 16,
}


def write_run(folder: Path, classes: list[str], **changes: Any) -> SegmentationModel:
    """Write the run of a small network with random scores; return the network."""
    model = sceneparse.create_segmentation_model(num_classes=len(classes), **{**SMALL, **changes})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
    model.meta |= {
        "classes": classes,
        "colors": [[0, 0, number] for number in range(len(classes))],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    save_checkpoint(
        folder, step=1, best_step=1, weights=model.state_dict(), training={}, meta=model.meta
    )
    return model


def equal_parts(model: nn.Module, other: nn.Module, prefix: str) -> bool:
    own, its = model.state_dict(), other.state_dict()
    return all(torch.equal(own[key], its[key]) for key in own if key.startswith(prefix))


def scores(model: SegmentationModel, part: str = "head") -> torch.Tensor:
    return model.state_dict()[f"{part}.classifier.1.weight"][:, :, 0, 0]


def load(model: SegmentationModel, source: Path, classes: list[str]) -> dict[str, Any]:
    return load_pretrained(model, source, classes=classes)


def test_every_tensor_of_a_run_with_the_same_classes(tmp_path: Path, logged: list[str]) -> None:
    source = write_run(tmp_path / "run", ["soil", "crop", "weed"])
    source.save_pretrained(tmp_path / "saved")
    checkpoint = tmp_path / "run/checkpoints/step-00000001"
    for place in (
        tmp_path / "run",
        checkpoint,
        checkpoint / "model.safetensors",
        tmp_path / "saved",
        tmp_path / "saved/model.safetensors",
    ):
        logged.clear()
        model = sceneparse.create_segmentation_model(num_classes=3, **SMALL)
        load(model, place, ["soil", "crop", "weed"])
        assert equal_parts(model, source, "")
        (line,) = logged
        total = sum("num_batches" not in key for key in model.state_dict())
        assert f"taken {total} of {total} tensors; classes taken by name: soil, crop, weed" in line
        assert "new" not in line and "left out" not in line


@pytest.mark.parametrize(
    ("classes", "rows", "told"),
    [
        (["weed", "soil"], [2, 0], "taken by name: weed, soil; classes left out: crop"),
        (["soil", "crop", "weed", "stone"], [0, 1, 2, None], "new classes: stone"),
        (["crop", "road", "soil"], [1, None, 0], "new classes: road; classes left out: weed"),
        (["sky", "road", "car"], [None] * 3, "new: head.classifier.1.weight, head.classifier."),
    ],
)
def test_scores_follow_the_names_of_classes(
    tmp_path: Path, logged: list[str], classes: list[str], rows: list[int | None], told: str
) -> None:
    source = write_run(tmp_path / "run", ["soil", "crop", "weed"])
    model = sceneparse.create_segmentation_model(num_classes=len(classes), **SMALL)
    fresh = {part: scores(model, part).clone() for part in ("head", "aux_head")}
    load(model, tmp_path / "run", classes)
    for part, before in fresh.items():
        for row, old in enumerate(rows):
            expected = before[row] if old is None else scores(source, part)[old]
            assert torch.equal(scores(model, part)[row], expected)
    assert equal_parts(model, source, "backbone") and equal_parts(model, source, "head.project")
    assert told in logged[0]


def test_a_run_stands_for_its_checkpoint_though_an_export_lies_in_it(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", ["a", "b"])
    new = write_run(tmp_path / "run", ["a", "b"])
    old.save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "saved/model.safetensors", tmp_path / "run")
    assert equal_parts(sceneparse.load_model(tmp_path / "run"), new, "")
    model = sceneparse.create_segmentation_model(num_classes=2, **SMALL)
    load(model, tmp_path / "run", ["a", "b"])
    assert equal_parts(model, new, "")


def test_other_head_attention_and_stride_are_told(tmp_path: Path, logged: list[str]) -> None:
    source = write_run(tmp_path / "run", ["a", "b"], attention="se", output_stride=32)
    changes = {"head": "psp", "attention": "none", "aux": False}
    model = sceneparse.create_segmentation_model(num_classes=2, **{**SMALL, **changes})
    before = {key: value.clone() for key, value in model.head.state_dict().items()}
    load(model, tmp_path / "run", ["a", "b"])
    assert equal_parts(model, source, "backbone")
    assert all(torch.equal(before[key], value) for key, value in model.head.state_dict().items())
    for part in (
        "new: head (",
        "left out: aux_head (",
        "attention blocks (",
        "its head (",
        "built differently: output_stride 32 -> 16",
    ):
        assert part in logged[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backbone": "resnet34"}, "it holds resnet34 with head fcn"),
        (
            {"base_width": 16},
            "head fcn, stem deep, base_width 8, norm batch)",
        ),
        ({"norm": "group"}, "norm batch): 46 missing: backbone.conv1.1.running_mean"),
        ({"backbone": "mobilenetv2_050"}, "it holds mobilenetv2_050 with head fcn"),
    ],
)
def test_another_backbone_is_refused_by_both_names(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    write_run(tmp_path / "run", ["a", "b"], **change)
    with pytest.raises(InputError, match="does not fit the model") as caught:
        sceneparse.create_segmentation_model(num_classes=2, pretrained=tmp_path / "run", **SMALL)
    assert told in str(caught.value)


def test_in_python_the_rows_are_those_of_the_source(tmp_path: Path, logged: list[str]) -> None:
    source = write_run(tmp_path / "run", ["a", "b"])
    again = sceneparse.create_segmentation_model(
        num_classes=2, pretrained=tmp_path / "run", **SMALL
    )
    assert equal_parts(again, source, "")
    assert "pretrained" not in again.meta["model"]
    assert "classes, in the order of the source: a, b" in logged[0]


def test_backbones_go_from_classifiers_to_segmentation_and_back(
    tmp_path: Path, logged: list[str]
) -> None:
    for name, backbone in (("resnet18", "resnet18"), ("timm:mobilenetv2_050", "mobilenetv2_050")):
        options = {} if name == "resnet18" else {"stem": "cifar"}
        classifier = sceneparse.create_classifier(name, 4, **{"stem": "imagenet", **options})
        classifier.meta |= {"task": "classification", "classes": list("abcd")}
        save_checkpoint(
            tmp_path / backbone,
            step=1,
            best_step=1,
            weights=classifier.state_dict(),
            training={},
            meta=classifier.meta,
        )
        model = sceneparse.create_segmentation_model(
            "fcn",
            backbone,
            3,
            stem="plain",
            strip_pooling=False,
            output_stride=32,
            pretrained=tmp_path / backbone,
        )
        weights = classifier.state_dict()
        prefix = "backbone." if name == "resnet18" else "backbone.features."
        for key, value in model.state_dict().items():
            its = key if name == "resnet18" else key.replace(prefix, "network.")
            assert not key.startswith(prefix) or torch.equal(value, weights[its])
        assert "classifier.weight" in logged[-1]
        again = sceneparse.create_classifier(
            name, 4, pretrained=tmp_path / backbone, **{"stem": "imagenet", **options}
        )
        assert equal_parts(again, classifier, "")


def test_a_description_cannot_ask_for_other_weights(make_run: MakeRun) -> None:
    folder = make_run() / "checkpoints/step-00000001"
    meta = json.loads((folder / "meta.json").read_text())
    weights = load_file(folder / "model.safetensors")
    for name in ("training.pt", "meta.json", "meta.json.sha256"):
        (folder / name).unlink()
    meta["model"]["pretrained"] = "imagenet"
    (folder / "config.json").write_text(json.dumps(meta))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="it asks for other weights"):
        sceneparse.load_model(folder)


def test_a_run_is_fine_tuned_and_resumed(
    tiny: list[str], make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*tiny, f"model.pretrained={make_run()}", "train.epochs=1"]
    settings += [f"output={folder_of(tiny)}-fine", "model.output_stride=16", "model.stem=deep"]
    assert call(train_command, "--config", QUICKSTART, *settings) == 0
    said = capsys.readouterr()
    for part in ("classes taken by name: ", "mean [0.5, 0.5, 0.5]"):
        assert part in said.out + said.err
    assert call(train_command, "--config", QUICKSTART, *settings, "--resume") == 0
    said = capsys.readouterr()
    assert "pretrained weights from" not in said.out + said.err


def test_settings_are_checked_before_weights(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("weights were read before the settings were checked")

    monkeypatch.setattr("sceneparse.training.segmentation.load_pretrained", fail)
    for wrong, expected in (
        ("loss.class_weights=[1.0,2.0,3.0]", "has 3 numbers, the dataset has 9 classes"),
        ("train.batch_size=64", "are fewer than train.batch_size"),
        ("augment.crop=[8,8] train.batch_size=1", "cannot train on 1 crops"),
        ('augment.extra=[{"name":"Fog"}]', "albumentations has no transform"),
    ):
        settings = [*tiny, "model.pretrained=imagenet", "model.stem=plain", *wrong.split()]
        settings += ["model.base_width=64"]
        assert call(train_command, "--config", QUICKSTART, *settings) == 2
        assert expected in capsys.readouterr().err


def create_anywhere(kind: str, name: str) -> None:
    if kind == "segmentation":
        sceneparse.create_segmentation_model(
            "fcn", name, 3, output_stride=32, pretrained="imagenet"
        )
    else:
        sceneparse.create_classifier(f"timm:{name}", 3, pretrained="imagenet")


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenetv2_050", "timm/mobilenetv2_050.lamb_in1k/resolve/main/model.safetensors"),
        ("legacy_seresnext26_32x4d", "legacy_seresnext26_32x4d"),
    ],
)
def test_without_a_network_one_short_attempt_names_the_file(
    kind: str, name: str, file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A firewall that drops packets: names resolve, and nobody answers."""
    monkeypatch.setattr("sceneparse.models.downloads._cached_file", lambda *_: None)
    monkeypatch.setattr("sceneparse.models.downloads.ATTEMPT_SECONDS", 0.2)
    asked: list[float] = []
    given_up = threading.Event()

    def silent(*_: object, **__: object) -> None:
        asked.append(time.monotonic())
        given_up.wait(60)

    monkeypatch.setattr("sceneparse.models.downloads.get_hf_file_metadata", silent)
    monkeypatch.setattr("urllib.request.urlopen", silent)
    with pytest.raises(InputError, match="no answer within") as caught:
        create_anywhere(kind, name)
    given_up.set()
    assert time.monotonic() - asked[0] < 3  # building the network before may take longer
    assert len(asked) == 1
    assert ATTEMPT_SECONDS <= 5
    assert file in str(caught.value)
    assert "set pretrained=PATH to the file" in str(caught.value)


def test_a_download_of_earlier_is_used_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timm = pytest.importorskip("timm")
    weights = timm.create_model("mobilenetv2_050").state_dict()
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    monkeypatch.setattr("sceneparse.models.downloads._cached_file", lambda *_: path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked a server"))
    model = sceneparse.create_segmentation_model(
        "fcn", "mobilenetv2_050", 3, output_stride=32, pretrained="imagenet"
    )
    own = model.backbone.features.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(own[key], weights[key]) for key in own)
