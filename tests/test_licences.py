"""Licences of pretrained weights: stated by timm, printed, recorded, carried on, refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import sceneparse
from sceneparse.cli import classify, export, train
from sceneparse.errors import InputError
from sceneparse.models.backbone_costs import RECOMMENDED
from sceneparse.models.description import check_description
from sceneparse.models.licences import PERMISSIVE, check_licence
from sceneparse.models.origin import licence_in_timm, origin_of, recorded_origin
from sceneparse.models.stored import read_description
from tests.test_classes import animals  # noqa: F401 - a fixture
from tests.test_train_seg import QUICKSTART, call, folder_of

TIMM: dict[str, Any] = {"head": "fcn", "num_classes": 2, "output_stride": 32, "stem": "deep"}


def origin(backbone: str, pretrained: Any = "imagenet", **changes: Any) -> Any:
    return origin_of({**TIMM, "backbone": backbone, **changes}, pretrained)


@pytest.mark.parametrize(
    ("pattern", "licence"),
    [
        ("convnextv2_*", "cc-by-nc-4.0"),
        ("fastvit_[ts]*", "fastvit-license"),
        ("fastvit_mci*", "apple-amlr"),
        ("vit_*_dinov3*.lvd*", "dinov3-license"),
        ("convnext_*.dinov3_*", "dinov3-license"),
        ("res*.fb_ssl_*", "cc-by-nc-4.0"),
        ("res*.fb_swsl_*", "cc-by-nc-4.0"),
        ("hiera_*_224.*", "cc-by-nc-4.0"),
        ("resnet50.bamboo", "unknown"),
        ("res2net50*", "unknown"),
        ("sam2_hiera_*", "apache-2.0"),
        ("convnext_tiny.in12k*", "apache-2.0"),
        ("eva02_tiny_*", "mit"),
    ],
)
def test_traps_are_known(pattern: str, licence: str) -> None:
    """The licences as their authors publish them; timm's own metadata is what is read."""
    names = timm.list_models(pattern, pretrained=True)
    assert names
    assert {licence_in_timm(name) for name in names} == {licence}
    assert (licence in PERMISSIVE) == (licence in {"apache-2.0", "mit"})


def test_no_name_of_a_trap_is_permissive() -> None:
    traps = r"fcmae|fb_ssl|fb_swsl|fb_wsl|swag|seer|apple|dinov3|eupe|\.mae"
    names = [name for name in timm.list_models(pretrained=True) if re.search(traps, name)]
    assert len(names) > 100
    assert not [name for name in names if licence_in_timm(name) in PERMISSIVE]
    recommended = {name for name in RECOMMENDED if "." in name}  # the others are ours
    assert {licence_in_timm(name) for name in recommended} <= PERMISSIVE
    assert recommended <= {*timm.list_models(pretrained=True)}


def test_weights_have_a_name_with_a_tag() -> None:
    assert origin("mobilenetv2_100") == {
        "weights": "mobilenetv2_100.ra_in1k",
        "licence": "apache-2.0",
    }
    assert origin("resnet50")["weights"] == "resnet50s.gluon_in1k"
    assert origin("resnet18", stem="plain") == {
        "weights": "resnet18.tv_in1k",
        "licence": "bsd-3-clause",
    }
    assert origin("resnet50", None) is None


@pytest.mark.parametrize(
    ("file", "backbone", "weights"),
    [
        ("mobilenetv2_100.ra_in1k.safetensors", "mobilenetv2_100", "mobilenetv2_100.ra_in1k"),
        ("mobilenetv2_100_ra-b33bc2c4.pth", "mobilenetv2_100", "mobilenetv2_100.ra_in1k"),
        ("resnet50-0676ba61.pth", "resnet50", "resnet50.tv_in1k"),
        (
            "models--timm--convnextv2_atto.fcmae/snapshots/1/model.safetensors",
            "convnextv2_atto",
            "convnextv2_atto.fcmae",
        ),
        ("model.pth", "convnextv2_atto.fcmae", "convnextv2_atto.fcmae"),
        ("mobilenetv2_100.safetensors", "mobilenetv2_100", None),
        ("resnet50.pth", "resnet50", None),
    ],
)
def test_a_file_is_known_by_its_name_only(
    file: str, backbone: str, weights: str | None, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.zeros(1)}, path)
    expected = {"weights": weights or str(path)[-200:], "licence": "unknown"}
    if weights:
        expected["licence"] = timm.get_pretrained_cfg(weights).license
    assert origin(backbone, path) == expected
    told = {"architecture": "resnet50", "pretrained_cfg": {"tag": "fb_swsl_ig1b_ft_in1k"}}
    (path.parent / "config.json").write_text(json.dumps(told))  # as on the Hugging Face hub
    assert origin(backbone, path)["licence"] == "cc-by-nc-4.0"
    told = {"architecture": "of_others", "license": "CC-BY-NC-4.0"}
    (path.parent / "config.json").write_text(json.dumps(told))
    licence = expected["licence"] if weights else "cc-by-nc-4.0"
    assert origin(backbone, path) == {**expected, "licence": licence}


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("resnet50.fb_swsl_ig1b_ft_in1k", r"resnet50\.a1_in1k, "),  # other weights
        ("convnext_tiny.dinov3_lvd1689m", r"convnext_tiny\.fb_in1k, "),
        ("convnextv2_nano", r"convnext_nano"),  # a relative of this size
        ("fastvit_t8", r"mobilenetv3_large_100\.ra_in1k"),  # no relative: one of this size
    ],
)
def test_refused_weights_have_permissive_neighbours(backbone: str, expected: str) -> None:
    with pytest.raises(InputError, match="refuses the pretrained weights") as caught:
        check_licence(origin(backbone), "imagenet", "permissive", output_stride=16)
    text = str(caught.value)
    named = text.partition("permissive licence: ")[2]
    assert re.search(expected, named), named
    assert f"their licence is {timm.get_pretrained_cfg(backbone).license}; " in text
    for name in named.split(", "):
        assert timm.get_pretrained_cfg(name).license in PERMISSIVE
        with torch.device("meta"):
            sceneparse.create_segmentation_model("fcn", name, 2, output_stride=16)


def test_refused_weights_of_a_network_unknown_here_have_neighbours() -> None:
    recorded = {"weights": "network_of_2031.nc_in1k", "licence": "cc-by-nc-4.0"}
    with pytest.raises(InputError, match=r"licence: mobilenetv4_conv_small\.\w+, \w+\.\w+, "):
        check_licence(recorded, "runs/older", "permissive", output_stride=16)


def test_refused_before_data_is_counted_and_weights_are_fetched(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("went on with refused weights")

    for late in ("training.segmentation.count_pixels", "models.pretrained.imagenet_weights"):
        monkeypatch.setattr(f"sceneparse.{late}", fail)
    settings = [*tiny, "model.backbone=convnextv2_atto", "model.pretrained=imagenet"]
    arguments = ["--config", QUICKSTART, *settings, "model.attention=none"]
    assert call(train, *arguments, "--licences", "permissive") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --licences permissive refuses the pretrained weights convnextv2")
    assert not Path(folder_of(tiny)).exists()
    assert call(train, *arguments, "--licences", "strict") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"--licences: invalid choice: '?strict'?", line) and "permissive" in line


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give random weights instead of downloads."""
    monkeypatch.setattr(
        "sceneparse.models.pretrained.imagenet_weights",
        lambda name, _: timm.create_model(name).state_dict(),
    )


@pytest.mark.usefixtures("downloads")
def test_printed_stored_exported_and_carried_on(
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Tested above, and slow.
    monkeypatch.setattr("sceneparse.models.licences._permissive_neighbours", lambda *_: ["x"])
    settings = [*tiny, "train.epochs=1", "model.backbone=convnextv2_atto", "model.head=fcn"]
    settings += ["model.attention=none", "model.output_stride=32"]
    run = folder_of(tiny)
    first = ["--config", QUICKSTART, *settings, "model.pretrained=imagenet"]
    assert call(train, *first) == 0
    warning = (
        "warning: licence of the pretrained weights convnextv2_atto.fcmae_ft_in1k: cc-by-nc-4.0,"
    )
    assert warning in capsys.readouterr().out
    recorded = {"weights": "convnextv2_atto.fcmae_ft_in1k", "licence": "cc-by-nc-4.0"}
    assert read_description(run)[1]["pretrained"] == recorded
    # A resumed run can be refused.
    assert call(train, *first, "--resume", "--licences", "permissive") == 2
    assert "refuses the pretrained weights convnextv2" in capsys.readouterr().err
    # An exported file has it.
    assert call(export, run, "--format", "safetensors") == 0
    assert (
        "licence      cc-by-nc-4.0 (pretrained weights: convnextv2_atto." in capsys.readouterr().out
    )
    file = Path(run) / "model.safetensors"
    with safe_open(file, "pt") as content:
        assert json.loads(content.metadata()["sceneparse"])["pretrained"] == recorded
    # A model that starts from this run, or from the exported file, inherits it.
    for start in (run, file):
        again = [*settings, f"model.pretrained={start}", f"output={tmp_path / 'again'}"]
        refused = ["--config", QUICKSTART, *again, "--licences", "permissive"]
        assert call(train, *refused) == 2
        assert f"(from {start}): their licence is cc-by" in capsys.readouterr().err
        arguments = read_description(run)[1]["model"]
        model = sceneparse.create_segmentation_model(**arguments, pretrained=start)
        assert model.meta["pretrained"] == recorded


@pytest.mark.usefixtures("downloads")
def test_scratch_files_and_old_runs(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--config", QUICKSTART, *tiny, "train.epochs=1", "--licences", "permissive"]
    assert call(train, *settings) == 0
    assert "licence" not in capsys.readouterr().out
    meta = read_description(folder_of(tiny))[1]
    assert meta["pretrained"] is None
    del meta["pretrained"]  # as of versions without the record
    assert recorded_origin(meta, "run") is None
    meta["config"]["model"] |= {"pretrained": "imagenet"}
    meta["model"] |= {"base_width": 64, "stem": "plain", "backbone": "resnet18"}
    known = {"weights": "resnet18.tv_in1k", "licence": "bsd-3-clause"}
    assert recorded_origin(meta, "run") == known
    meta["config"]["model"] |= {"pretrained": "mine.pth"}
    assert recorded_origin(meta, "run") == {"weights": "mine.pth", "licence": "unknown"}
    assert recorded_origin({"model": meta["model"]}, "file") == {
        "weights": "file",
        "licence": "unknown",
    }
    # The user may know the licence of a file.
    path = tmp_path / "mine.pth"
    torch.save(timm.create_model("mobilenetv2_035").state_dict(), path)
    settings += ["model.backbone=mobilenetv2_035", "model.attention=none", "--overwrite"]
    assert call(train, *settings, f"model.pretrained={path}") == 0
    said = capsys.readouterr().out
    assert f"warning: licence of the pretrained weights {path}: unknown; --licences perm" in said


@pytest.mark.usefixtures("downloads")
def test_classifiers_record_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    animals: Path,  # noqa: F811
) -> None:
    settings = [
        f"data.root={animals}",
        "data.dataset=folder",
        "data.size=64",
        f"output={tmp_path / 'run'}",
    ]
    settings += [
        "model=timm:convnextv2_atto.fcmae_ft_in1k",
        "pretrained=imagenet",
        "train.epochs=1",
    ]
    arguments = ["--config", "cifar10_resnet18", *settings, "train.batch_size=2", "seeds=[0]"]
    assert call(classify, *arguments) == 0
    said = capsys.readouterr().out
    assert "cc-by-nc-4.0, which is not permissive" in said
    assert re.search(r"M parameters, pretrained weights: imagenet$", said, re.MULTILINE)
    assert read_description(tmp_path / "run/seed-0")[1]["pretrained"]["licence"] == "cc-by-nc-4.0"


@pytest.mark.parametrize("wrong", ["mit", {"weights": "x"}, {"weights": "x", "licence": "a\nb"}])
def test_forged_records_are_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="does not describe a model of ours: pretrained"):
        check_description({"model": {}, "pretrained": wrong}, "meta.json")
