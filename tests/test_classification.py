"""Classifiers: costs of the publishers' networks, official weights, wrong arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sceneparse import create_classifier
from sceneparse.errors import InputError
from sceneparse.layers.attention import ATTENTION
from sceneparse.models.classification import CIFAR_RESNETS

# The oracle's names of our blocks.
ORACLE = {
    "none": "vanilla",
    "se": "se",
    "eca": "eca_adaptive",
    "triplet": "triplet",
    "gct": "gct",
    "strip_pooling": "strip_pool",
    "cbam": "cbam",
    "coordinate": "coord_r32",
    "simam": "simam",
}


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("depth", ["18", "34"])
def test_costs_are_those_of_the_publishers(shared: Path, depth: str, attention: str) -> None:
    nets: dict[str, dict[str, Any]] = json.loads((shared / "oracles/cifar_costs.json").read_text())[
        "nets"
    ]
    expected = nets[f"r{depth}_{ORACLE[attention]}"]
    compared = 0
    for stem, suffix in (("cifar", ""), ("imagenet", "_imagenet_stem")):
        for classes in (10, 100):
            if f"params_{classes}{suffix}" not in expected:
                continue
            with torch.device("meta"):
                model = create_classifier(
                    f"resnet{depth}", classes, attention=attention, stem=stem
                ).eval()
                with FlopCounterMode(display=False) as counter:
                    model(torch.empty(1, 3, 32, 32))
            parameters = sum(parameter.numel() for parameter in model.parameters())
            assert parameters == expected[f"params_{classes}{suffix}"]
            assert counter.get_total_flops() == 2 * expected[f"macs_{classes}{suffix}"]
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", CIFAR_RESNETS)
def test_small_resnets_have_the_published_size(name: str) -> None:
    # table 6 of He et al., CVPR 2016, in millions
    published = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85}
    model = create_classifier(name, 10)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert parameters == pytest.approx({**published, "resnet110": 1.7}[name], abs=0.04)
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet19"}, "unknown model 'resnet19'; choose one of: resnet101"),
        ({"model": "timm:resnet9000"}, "timm has no model 'resnet9000'"),
        (
            {"model": "timm:resnet18.fb"},
            "unknown weights 'resnet18.fb'; choose one of: resnet18.a1",
        ),
        ({"model": "timm:resnet18", "attention": "se"}, "not into timm's models"),
        ({"model": "resnet20", "stem": "imagenet"}, "the stem cifar only"),
        ({"attention": "magic"}, "unknown attention 'magic'"),
        ({"stem": "deep"}, "unknown stem 'deep'"),
        ({"num_classes": 1}, "at least 2"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_classifier(**change)


def test_models_of_timm_classify() -> None:
    model = create_classifier("timm:mobilenetv2_035", 7).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
