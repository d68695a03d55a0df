"""The command `sceneparse backbones`: the recommended table, patterns, licences, times."""

from __future__ import annotations

import re

import pytest
import timm
import torch

from sceneparse.cli import backbones
from sceneparse.models.backbone_costs import CAMVID_MEAN_IOU, RECOMMENDED, compute_costs
from tests.test_train_seg import call


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Return the lines that the command prints, by their first word."""
    assert call(backbones, *arguments) == 0
    return {line.partition(" ")[0]: line for line in capsys.readouterr().out.splitlines() if line}


def test_all_recommended_are_listed_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sceneparse.models.backbone_costs.compute_costs", pytest.fail)
    rows = rows_of(capsys)
    assert [*rows] == ["backbone", *RECOMMENDED]
    assert len(rows) > 20
    for name in CAMVID_MEAN_IOU:
        assert "unmeasured" not in rows.pop(name)
    rows.pop("backbone")
    assert all(row.endswith("unmeasured") and "(!)" not in row for row in rows.values())
    row = rows["tf_efficientnetv2_s.in21k_ft_in1k"]
    assert re.search(r" 8 16 32 +0\.5, 0\.5 +apache-2\.0 ", row)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv4_conv_small.e2400_r224_in1k"])
def test_stored_costs_are_those_of_the_code(name: str) -> None:
    assert compute_costs(name) == RECOMMENDED[name], "run python -m tests.recommended"


def test_costs_are_those_of_timms_network() -> None:
    """Multiply-adds from shapes: convolutions of timm's own network up to the last map."""
    counted = []

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        kernel = module.weight[0].numel()  # type: ignore[index]
        counted.append(kernel * output.numel())

    with torch.device("meta"):
        network = timm.create_model("mobilenetv2_100", features_only=True)
        convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        for module in convolutions:
            module.register_forward_hook(count)
        network.eval()(torch.empty(1, 3, 512, 512))
    costs = RECOMMENDED["mobilenetv2_100.ra_in1k"]
    assert costs.multiply_adds == sum(counted)
    assert costs.parameters == sum(p.numel() for p in network.parameters())


def test_a_pattern_lists_any_model_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "convnextv2_atto*")
    assert [*rows] == ["backbone", *timm.list_models("convnextv2_atto*", pretrained=True)]
    for name in (*rows,)[1:]:
        assert re.search(r" 8 16 32 +ImageNet +cc-by-nc-4\.0 \(!\) +unmeasured$", rows[name])
    rows = rows_of(capsys, "resnet50.fb_*")
    assert len(rows) == 3 and all("cc-by-nc-4.0 (!)" in row for row in (*rows.values(),)[1:])
    rows = rows_of(capsys, "resnet18")
    assert re.search(r"^resnet18 \(resnet18\.tv_in1k\) .* bsd-3-clause ", rows["resnet18"])
    assert " apache-2.0 " in rows["resnet18.a1_in1k"]


def test_many_networks_are_listed_without_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(backbones, "*_[ls]*_*") == 0
    said = capsys.readouterr().out
    assert "costs are computed for 25 networks at most; narrow the pattern" in said
    assert re.search(r"vit_small_patch16_dinov3\.lvd1689m( +-){4} .*dinov3-license \(!\) ", said)
    assert re.search(r"mobilenetv3_large_075\.\w+( +-){5} .*no weights ", said)
    assert call(backbones, "vit_*", "--measure") == 2
    assert re.search(r"'vit_\*' matches \d+ networks, too many", capsys.readouterr().err)


def test_unknown_names_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(backbones, "convnxt_tiny") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no backbone matches 'convnxt_tiny'; similar names: convnext")
    assert call(backbones, "") == 2
    assert "no backbone matches ''; similar names: none" in capsys.readouterr().err


def test_measured_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(backbones, "test_byobnet", "--measure") == 0
    head, row, *_, note = capsys.readouterr().out.splitlines()
    assert head.endswith(" ms") and float(row.split()[-1]) >= 0
    assert re.search(r"ms: one image at a time, float32, medians, on .*\d thread", note)
