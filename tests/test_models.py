"""Models: the paper's sizes, every table entry at odd sizes, the publishers' outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sceneparse
from sceneparse.errors import InputError
from sceneparse.layers.pooling import MixedPooling, StripPooling
from sceneparse.models.heads import HEADS
from sceneparse.models.resnet import RESNETS, create_resnet


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("backbone", "num_classes", "strip_pooling", "parameters"),
    [
        ("resnet50", 19, True, 47_737_254),
        ("resnet50", 19, False, 41_620_198),
        ("resnet50", 150, True, 47_838_124),
        ("resnet101", 150, True, 66_830_252),
    ],
)
def test_parameters_of_the_paper(
    backbone: str, num_classes: int, strip_pooling: bool, parameters: int
) -> None:
    with torch.device("meta"):
        model = sceneparse.create_segmentation_model(
            head="strip_pooling",
            backbone=backbone,
            num_classes=num_classes,
            strip_pooling=strip_pooling,
            aux=True,
            output_stride=8,
        )
    assert count(model) == parameters


# Our names of the publishers' modules, in the publishers' order.
ROLES = {
    "strip_pooling": ["rows", "columns", "fuse"],
    "mixed_pooling": [
        "short_reduce",
        "long_reduce",
        "short_full",
        "short_pooled.0",
        "short_pooled.1",
        "long_columns",
        "long_rows",
        "short_fuse",
        "long_fuse",
        "fuse",
    ],
}


def fill_by_rule(module: nn.Module, roles: list[str]) -> list[str]:
    """Fill by the rule of oracles/attention.json; return the names in the publishers' order."""
    own = list(module.state_dict())
    ordered = [name for role in roles for name in own if name.startswith(f"{role}.")]
    names = [name for name in ordered if not name.endswith("num_batches_tracked")]
    norms = {name for name, child in module.named_modules() if isinstance(child, nn.BatchNorm2d)}
    for j, name in enumerate(names):
        value = module.state_dict()[name]
        a = torch.arange(value.numel(), dtype=torch.float64)
        owner, kind = name.rpartition(".")[::2]
        if owner not in norms:
            filled = 0.5 * torch.cos(1.7 * a + 0.9 * j) + 0.12
        else:
            filled = {
                "running_mean": 0.1 * torch.sin(a + j),
                "running_var": 1 + 0.5 * torch.cos(a + j) ** 2,
                "weight": 1 + 0.1 * torch.sin(a + j),
                "bias": 0.1 * torch.cos(a + j),
            }[kind]
        value.copy_(filled.view_as(value))
    return ordered


@pytest.mark.parametrize(
    ("name", "build"), [("strip_pooling", StripPooling), ("mixed_pooling", MixedPooling)]
)
def test_pooling_modules_equal_the_publishers(
    shared: Path, name: str, build: type[StripPooling] | type[MixedPooling]
) -> None:
    expected = json.loads((shared / "oracles/attention.json").read_text())["blocks"][name]
    module = build(16).double().eval()
    assert count(module) == expected["parameters"]
    state = module.state_dict()
    shapes = [list(state[name].shape) for name in fill_by_rule(module, ROLES[name])]
    assert shapes == list(expected["state_dict"].values())
    a = torch.arange(7680, dtype=torch.float64)
    x = (2 * torch.sin(0.01 * a) + torch.cos(0.0473 * a) + 0.5).view(2, 16, 12, 20)
    with torch.no_grad():
        out = module(x)
    indices = json.loads((shared / "oracles/attention.json").read_text())["flat_indices"]
    got = out.flatten()[indices]
    values = torch.tensor(expected["values"], dtype=torch.float64)
    torch.testing.assert_close(got, values, rtol=1e-9, atol=1e-9)
    assert out.sum().item() == pytest.approx(expected["sum"], rel=1e-9)


def test_strip_pooling_by_hand() -> None:
    module = StripPooling(2).double().eval()
    x = torch.randn(1, 2, 3, 5, dtype=torch.float64)
    rows = torch.stack([x[..., i, :].mean(-1) for i in range(3)], -1)[..., None]
    columns = torch.stack([x[..., j].mean(-1) for j in range(5)], -1)[:, :, None]
    spread = module.rows(rows).repeat(1, 1, 1, 5) + module.columns(columns).repeat(1, 1, 3, 1)
    gate = 1 / (1 + torch.exp(-module.fuse(spread.clamp(min=0))))
    torch.testing.assert_close(module(x), x * gate)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", [*RESNETS, "mobilenetv2_050", "convnext_atto"])
def test_every_head_on_every_backbone(head: str, backbone: str) -> None:
    if backbone in {"resnet101", "resnet152"} and head != "strip_pooling":
        pytest.skip("the deep ones once are enough")
    torch.manual_seed(0)
    small = {"base_width": 8} if backbone in RESNETS else {}
    model = sceneparse.create_segmentation_model(head, backbone, 5, width=16, **small)
    images = torch.randn(2, 3, 97, 161)
    outputs = model(images)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "out": (2, 5, 97, 161),
        "aux": (2, 5, 97, 161),
    }
    sum(value.square().mean() for value in outputs.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    model.eval()
    with torch.no_grad():
        outputs = model(images, upsample=False)
    assert set(outputs) == {"out"}
    stride = model.output_stride
    # convolutions with padding round up, the patches of ConvNeXt down
    assert outputs["out"].shape[-2] in {97 // stride, -(-97 // stride)}
    assert outputs["out"].shape[-1] in {161 // stride, -(-161 // stride)}


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_output_stride_and_where_attention_sits(name: str, output_stride: int) -> None:
    net = create_resnet(name, output_stride=output_stride, base_width=8, attention=StripPooling)
    maps = net(torch.randn(1, 3, 64, 96))
    assert [x.shape[1] for x in maps] == list(net.channels)
    assert tuple(maps[3].shape[-2:]) == (64 // output_stride, 96 // output_stride)
    for stage in range(1, 5):
        blocks = list(net.get_submodule(f"layer{stage}"))
        attended = [isinstance(block.attention, StripPooling) for block in blocks]
        expected = [stage == 4 or index == len(blocks) - 1 for index in range(len(blocks))]
        assert attended == expected


def test_dilations_of_spnet() -> None:
    net = create_resnet("resnet50", base_width=8)
    dilations = [
        [block.conv2.dilation[0] for block in net.get_submodule(f"layer{stage}")]
        for stage in range(1, 5)
    ]
    assert dilations == [[1, 1, 1], [1, 1, 1, 1], [1, 2, 2, 2, 2, 2], [4, 8, 16]]


def test_backbone_equals_timm_with_the_same_weights() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet50s", features_only=True, output_stride=8).eval()
    ours = create_resnet("resnet50", multi_grid=None).eval()
    weights = timm.create_model("resnet50s").state_dict()
    theirs.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
    ours.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        for mine, other in zip(ours(x), theirs(x)[-4:], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_auxiliary_head_runs_once_per_step() -> None:
    model = sceneparse.create_segmentation_model("fcn", "resnet18", 3, base_width=8)
    assert model.aux_head is not None
    norm = model.aux_head.project[1]
    model(torch.randn(2, 3, 32, 32))
    assert norm.num_batches_tracked.item() == 1
    model.eval()(torch.randn(2, 3, 32, 32))
    assert norm.num_batches_tracked.item() == 1


def test_small_maps_are_pooled_up_as_adaptive_pooling_defines() -> None:
    x = torch.randn(1, 4, 7, 9)
    expected = torch.empty(1, 4, 20, 20)
    for i in range(20):
        for j in range(20):
            rows = slice(i * 7 // 20, -(-(i + 1) * 7 // 20))
            columns = slice(j * 9 // 20, -(-(j + 1) * 9 // 20))
            expected[..., i, j] = x[..., rows, columns].mean((-2, -1))
    torch.testing.assert_close(F.adaptive_avg_pool2d(x, 20), expected)
    module = MixedPooling(8).eval()
    assert module(torch.randn(1, 8, 7, 9)).shape == (1, 8, 7, 9)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_050", "convnext_atto"])
def test_frozen_stages_do_not_change(backbone: str) -> None:
    small = {"base_width": 8, "strip_pooling": False} if backbone == "resnet18" else {}
    model = sceneparse.create_segmentation_model("fcn", backbone, 3, output_stride=16, **small)  # type: ignore[arg-type]
    model.freeze_stages(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1.0, weight_decay=0.1)
    model.train()
    model(torch.randn(2, 3, 64, 64))["out"].square().mean().backward()
    optimizer.step()
    image = torch.randn(1, 3, 64, 64)
    model.eval()
    maps = [x.detach() for x in model.backbone(image)]
    same = [name for name, value in model.state_dict().items() if torch.equal(before[name], value)]
    assert len(same) < len(before)
    model.load_state_dict(before)
    unchanged = [torch.equal(x, y) for x, y in zip(maps, model.backbone(image), strict=True)]
    assert unchanged == [True, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"head": "psspnet"}, "unknown head 'psspnet'; choose one of: fcn, strip_pooling"),
        ({"backbone": "resnet51"}, "unknown backbone 'resnet51'"),
        ({"backbone": "mobilenetv2_100", "strip_pooling": True}, "set model.strip_pooling: false"),
        ({"output_stride": 4}, "unknown output stride '4'"),
        ({"num_classes": 0}, "num_classes must be at least 2, got 0"),
        ({"width": 30}, "multiple of 4"),
        ({"backbone": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224"),
    ],
)
def test_wrong_arguments_are_explained(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        sceneparse.create_segmentation_model(**arguments)  # type: ignore[arg-type]


def test_overfits_one_batch() -> None:
    torch.manual_seed(0)
    model = sceneparse.create_segmentation_model(
        "strip_pooling", "resnet18", 3, base_width=8, width=16, aux=False
    )
    images = torch.randn(2, 3, 48, 48)
    targets = (images[:, :1].roll(1, 2).mean(1) > 0).long() + (torch.arange(48) > 24).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss() -> Tensor:
        big = F.max_pool2d(targets[:, None].float(), 16).squeeze(1).long()
        return F.cross_entropy(F.adaptive_avg_pool2d(model(images)["out"], 3), big)

    first = loss().item()
    for _ in range(20):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    assert value.item() < 0.1 * first
