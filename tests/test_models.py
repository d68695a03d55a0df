"""Models: parameters of the papers, all tables at odd image sizes, outputs of timm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sceneparse
from sceneparse.errors import InputError
from sceneparse.layers.blocks import ConvNormAct
from sceneparse.layers.norms import set_norms
from sceneparse.layers.pooling import MixedPooling, StripPooling, strip_means
from sceneparse.models import segmentation
from sceneparse.models.heads import HEADS
from sceneparse.models.resnet import RESNETS, ResNet
from sceneparse.models.segmentation import SegmentationModel


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_strip_means_in_both_layouts(layout: torch.memory_format) -> None:
    x = torch.randn(2, 5, 7, 3).contiguous(memory_format=layout).requires_grad_()
    rows, columns = strip_means(x)
    values = x.detach().numpy()
    np.testing.assert_allclose(
        rows.detach().numpy(), values.sum(3, keepdims=True) / 3, rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        columns.detach().numpy(), values.sum(2, keepdims=True) / 7, rtol=0, atol=1e-6
    )
    (rows.sum() + 2 * columns.sum()).backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / 3 + 2 / 7))


def test_strip_pooling_by_hand() -> None:
    module = StripPooling(2).double().eval()
    x = torch.randn(1, 2, 3, 5, dtype=torch.float64)
    rows = torch.stack([x[..., i, :].mean(-1) for i in range(3)], -1)[..., None]
    columns = torch.stack([x[..., j].mean(-1) for j in range(5)], -1)[:, :, None]
    spread = module.rows(rows).repeat(1, 1, 1, 5) + module.columns(columns).repeat(1, 1, 3, 1)
    gate = 1 / (1 + torch.exp(-module.fuse(spread.clamp(min=0))))
    torch.testing.assert_close(module(x), x * gate)


def conv_norm(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel * kernel + 2 * outputs


def separable(inputs: int, outputs: int) -> int:
    return 9 * inputs + conv_norm(inputs, outputs, 1)


def mixed_pooling(width: int) -> int:
    inner = width // 4
    short = conv_norm(width, inner, 1) + 4 * conv_norm(inner, inner, 3)
    long = conv_norm(width, inner, 1) + 2 * (3 * inner**2 + 2 * inner) + conv_norm(inner, inner, 3)
    return short + long + conv_norm(2 * inner, width, 1)


# Parameters of a head on 2048 channels for 19 classes, from the papers.
HEAD_PARAMETERS = {
    "psp": 4 * conv_norm(2048, 512, 1) + conv_norm(4096, 512, 3) + 513 * 19,
    "deeplabv3plus": conv_norm(2048, 256, 1) * 2  # point and image
    + 3 * separable(2048, 256)
    + conv_norm(5 * 256, 256, 1)
    + conv_norm(256, 48, 1)
    + separable(304, 256)
    + separable(256, 256)
    + 257 * 19,
    "strip_pooling_plus": conv_norm(2048, 256, 1)
    + 2 * mixed_pooling(256)
    + separable(256, 128)
    + conv_norm(256, 48, 1)
    + separable(176, 128)
    + separable(128, 128)
    + 129 * 19,
    "upernet": 4 * conv_norm(2048, 512, 1)
    + conv_norm(4096, 512, 3)
    + sum(conv_norm(c, 512, 1) for c in (256, 512, 1024))
    + 3 * conv_norm(512, 512, 3)
    + conv_norm(2048, 512, 3)
    + 513 * 19,
    # the whole one, without the other half of its two modules and half of the fusion
    "strip_pooling_short": 15_623_699
    - 2 * (conv_norm(1024, 256, 1) + conv_norm(256, 256, 3) + 2 * (3 * 256**2 + 512) + 256 * 1024),
    "strip_pooling_long": 15_623_699
    - 2 * (conv_norm(1024, 256, 1) + 4 * conv_norm(256, 256, 3) + 256 * 1024),
    "strip_pooling": 15_623_699,
}


@pytest.mark.parametrize("head", HEAD_PARAMETERS)
def test_head_parameters_by_formula(head: str) -> None:
    with torch.device("meta"):
        assert count(HEADS[head]((256, 512, 1024, 2048), 19)) == HEAD_PARAMETERS[head]


@pytest.mark.parametrize("head", ["fcn", "deeplabv3"])
def test_head_parameters_equal_torchvision(head: str) -> None:
    models = pytest.importorskip("torchvision").models.segmentation
    build = {"fcn": models.fcn_resnet50, "deeplabv3": models.deeplabv3_resnet50}[head]
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
        ours = sceneparse.create_segmentation_model(
            head, "resnet50", 21, strip_pooling=False, stem="plain"
        )
    assert count(ours) == count(theirs)
    assert set(HEAD_PARAMETERS) | {"fcn", "deeplabv3"} == set(HEADS)


def check_odd_sizes(model: SegmentationModel, aux: bool) -> None:
    images = torch.randn(2, 3, 97, 161)
    outputs = model(images)
    assert set(outputs) == ({"out", "aux"} if aux else {"out"})
    assert {tuple(value.shape) for value in outputs.values()} == {(2, 5, 97, 161)}
    sum(value.square().mean() for value in outputs.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("backbone", [*RESNETS, "mobilenetv2_050", "convnext_atto"])
def test_every_backbone_at_odd_sizes(backbone: str) -> None:
    torch.manual_seed(0)
    small = {"base_width": 8} if backbone in RESNETS else {}
    model = sceneparse.create_segmentation_model("strip_pooling", backbone, 5, width=16, **small)
    check_odd_sizes(model, aux=True)
    model.eval()
    with torch.no_grad():
        outputs = model(torch.randn(2, 3, 97, 161), upsample=False)
    assert set(outputs) == {"out"}
    stride = model.output_stride
    # convolutions with padding round up, the patches of ConvNeXt down
    assert outputs["out"].shape[-2] in {97 // stride, -(-97 // stride)}
    assert outputs["out"].shape[-1] in {161 // stride, -(-161 // stride)}


@pytest.mark.parametrize(
    ("head", "norm"),
    [
        *((head, "batch") for head in HEADS),
        ("strip_pooling", "group"),
        *(
            pytest.param(head, "group", marks=pytest.mark.slow)
            for head in HEADS
            if head != "strip_pooling"
        ),
    ],
)
def test_every_head_at_odd_sizes_saved_and_exported(head: str, norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sceneparse.create_segmentation_model(
        head, "resnet18", 5, base_width=16, width=16, aux=False, norm=norm, output_stride=16
    )
    check_odd_sizes(model, aux=False)
    model.eval()
    model.save_pretrained(tmp_path)
    again = SegmentationModel.from_pretrained(str(tmp_path))
    images = torch.randn(1, 3, 97, 161)
    with torch.no_grad():
        expected = model(images)["out"]
        assert torch.equal(again(images)["out"], expected)
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images)["out"], expected)


OPTIONS = [
    (head, {name: value})
    for head, kind in HEADS.items()
    for name, values in getattr(kind, "options", {}).items()
    for value in values
]


@pytest.mark.parametrize(("head", "options"), OPTIONS, ids=str)
def test_every_option_of_a_head(head: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sceneparse.create_segmentation_model(
        head, "resnet18", 5, base_width=8, width=16, aux=False, head_options=options
    )
    check_odd_sizes(model, aux=False)
    default = sceneparse.create_segmentation_model(
        head, "resnet18", 5, base_width=8, width=16, aux=False
    )
    [(name, value)] = options.items()
    is_default = value == HEADS[head].options[name][0]  # type: ignore[attr-defined]
    same = model.state_dict().keys() == default.state_dict().keys()
    assert same == is_default, "an option without effect"
    model.eval().save_pretrained(tmp_path)
    again = SegmentationModel.from_pretrained(str(tmp_path))
    images = torch.randn(1, 3, 97, 161)
    with torch.no_grad():
        assert torch.equal(again(images)["out"], model(images)["out"])


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("fcn", {"separable": True}, "'fcn' has no options; remove model.head_options.separable"),
        ("deeplabv3plus", {"seperable": True}, "'seperable'; choose one of: separable"),
        ("deeplabv3plus", {"separable": 1}, "separable must be one of true, false, got 1"),
        ("strip_pooling_plus", {"context": "psp"}, '"mixed", "strip", .*, got \'psp\''),
        ("strip_pooling_plus", {"modules": True}, "modules must be one of 2, 1, got True"),
        ("strip_pooling_plus", {"context": "none", "modules": 1}, "'none' has none; remove it"),
        ("strip_pooling_plus", {"decoder": False, "fine_strip": True}, "needs decoder: true"),
    ],
)
def test_wrong_head_options(head: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sceneparse.create_segmentation_model(head, "resnet18", 5, head_options=options)


def test_options_of_own_heads_can_be_any_plain_values(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnHead(HEADS["fcn"]):  # type: ignore[misc]
        options: ClassVar[dict[str, Any]] = {"rates": ((1, 2), (2, 4)), "steps": (1, 1.0, True)}

        def build(self, *arguments: Any, rates: Any, steps: Any) -> int:
            self.given = rates, steps
            return int(super().build(*arguments))

    monkeypatch.setitem(HEADS, "own", OwnHead)
    for options, expected in (
        ({}, ((1, 2), 1)),
        ({"rates": [2, 4], "steps": True}, ([2, 4], True)),  # as YAML and JSON give them
    ):
        model = sceneparse.create_segmentation_model("own", "resnet18", 5, head_options=options)
        assert model.head.given == expected
    for value in ([2, 5], {1}, "1"):
        with pytest.raises(InputError, match=r"rates must be one of \[1, 2\], \[2, 4\], got"):
            sceneparse.create_segmentation_model(
                "own", "resnet18", 5, head_options={"rates": value}
            )


@pytest.mark.parametrize("head", ["deeplabv3plus", "strip_pooling_plus"])
def test_a_decoder_needs_a_map_of_stride_4(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_coarse(*arguments: Any) -> nn.Module:
        backbone = create(*arguments)
        backbone.strides = (8, 8, 16, 32)
        return backbone

    create = segmentation._create_backbone
    monkeypatch.setattr(segmentation, "_create_backbone", create_coarse)
    with pytest.raises(InputError, match="'resnet18' has stride 8; choose another backbone or a"):
        sceneparse.create_segmentation_model(head, "resnet18", 5)
    options = {"decoder": False} if head == "strip_pooling_plus" else None
    head = head if options else "deeplabv3"
    sceneparse.create_segmentation_model(head, "resnet18", 5, head_options=options)


def test_head_width_of_mixed_pooling() -> None:
    with pytest.raises(InputError, match="multiple of 4 for this head, got 30"):
        sceneparse.create_segmentation_model("strip_pooling_plus", "resnet18", 5, width=30)


def test_a_deeplabv3plus_of_an_older_version_has_plain_convolutions(tmp_path: Path) -> None:
    model = sceneparse.create_segmentation_model(
        "deeplabv3plus", "resnet18", 5, base_width=8, width=16, head_options={"separable": False}
    )
    del model.meta["model"]["head_options"]
    model.save_pretrained(tmp_path)
    again = SegmentationModel.from_pretrained(str(tmp_path))
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "resnet50"])
def test_parameters_of_deeplabv3plus_are_those_of_another_library(backbone: str) -> None:
    plain = {"stem": "plain", "attention": "none"} if backbone in RESNETS else {}
    smp = pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        theirs = smp.DeepLabV3Plus(f"tu-{backbone}", encoder_weights=None, classes=19)
        ours = sceneparse.create_segmentation_model(
            "deeplabv3plus", backbone, 19, output_stride=16, aux=False, **plain
        )
    assert count(ours) == pytest.approx(count(theirs), rel=0.05)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_050"])
def test_norms(backbone: str) -> None:
    def kinds(norm: str) -> dict[type[nn.Module], int]:
        model = sceneparse.create_segmentation_model("fcn", backbone, 3, norm=norm)
        norms = [type(m) for m in model.modules() if "Norm" in type(m).__name__]
        return dict(Counter(kind for kind in norms if kind is not ConvNormAct))

    batch, group, sync = kinds("batch"), kinds("group"), kinds("sync")
    assert set(group) == {nn.GroupNorm}
    assert all(issubclass(kind, nn.SyncBatchNorm) for kind in sync)
    assert sum(batch.values()) == sum(group.values()) == sum(sync.values())


def test_frozen_norms_keep_their_statistics() -> None:
    model = sceneparse.create_segmentation_model(
        "strip_pooling", "resnet18", 3, base_width=8, norm="frozen"
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()(torch.randn(2, 3, 65, 65))["out"].square().mean().backward()
    optimizer.step()
    changed = {n for n, value in model.state_dict().items() if not torch.equal(before[n], value)}
    norms = [
        f"backbone.{n}" for n, m in model.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)
    ]
    for name in norms:
        kept = not any(key.startswith(f"{name}.") for key in changed)
        assert kept == (".attention." not in name), name
    assert any(key.startswith("head.mixed1.") for key in changed)
    assert "backbone.layer1.0.conv1.weight" in changed


def test_norms_to_freeze_must_exist() -> None:
    with (
        torch.device("meta"),
        pytest.raises(InputError, match="'convnext_atto' has none; use norm: batch"),
    ):
        sceneparse.create_segmentation_model(
            "fcn", "convnext_atto", 3, output_stride=32, norm="frozen"
        )


def test_group_norm_has_no_small_groups() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2048), nn.BatchNorm2d(48), nn.BatchNorm2d(5))
    set_norms(model, "group")
    assert [(norm.num_groups, norm.num_channels) for norm in model] == [(32, 2048), (6, 48), (1, 5)]


def test_zero_init_residual_starts_without_mixed_pooling() -> None:
    model = sceneparse.create_segmentation_model(
        "strip_pooling", "resnet18", 3, base_width=8, zero_init_residual=True
    )
    x = torch.randn(2, 128, 9, 11).relu()
    mixed = model.head.get_submodule("mixed1")
    assert torch.equal(MixedPooling.forward(mixed, x[:, :32]), x[:, :32])  # type: ignore[arg-type]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_output_stride_and_where_attention_sits(name: str, output_stride: int) -> None:
    net = ResNet(*RESNETS[name], output_stride=output_stride, base_width=8, attention=StripPooling)
    maps = net(torch.randn(1, 3, 64, 96))
    assert [x.shape[1] for x in maps] == list(net.channels)
    assert tuple(maps[3].shape[-2:]) == (64 // output_stride, 96 // output_stride)
    assert [64 // x.shape[2] for x in maps] == list(net.strides)
    for stage in range(1, 5):
        blocks = list(net.get_submodule(f"layer{stage}"))
        attended = [isinstance(block.attention, StripPooling) for block in blocks]
        expected = [stage == 4 or index == len(blocks) - 1 for index in range(len(blocks))]
        assert attended == expected


def test_dilations_of_spnet() -> None:
    net = ResNet(*RESNETS["resnet50"], base_width=8)
    dilations = [
        [block.conv2.dilation[0] for block in net.get_submodule(f"layer{stage}")]
        for stage in range(1, 5)
    ]
    assert dilations == [[1, 1, 1], [1, 1, 1, 1], [1, 2, 2, 2, 2, 2], [4, 8, 16]]


def test_backbone_equals_timm_with_the_same_weights() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet50s", features_only=True, output_stride=8).eval()
    ours = ResNet(*RESNETS["resnet50"], multi_grid=None).eval()
    weights = timm.create_model("resnet50s").state_dict()
    theirs.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
    ours.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        for mine, other in zip(ours(x), theirs(x)[-4:], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_shortcut_of_few_channels_is_a_strided_convolution() -> None:
    shortcut = ResNet(*RESNETS["resnet18"], base_width=8).layer2[0].downsample[0]
    plain = torch.nn.Conv2d(8, 16, 1, stride=2, bias=False)
    plain.load_state_dict(shortcut.state_dict())
    x = torch.randn(2, 8, 9, 12)
    torch.testing.assert_close(shortcut(x), plain(x))


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
        ({"head": "psspnet"}, "unknown head 'psspnet'; choose one of: deeplabv3, "),
        ({"backbone": "resnet51"}, "unknown backbone 'resnet51'"),
        (
            {"backbone": "resnet18.fb_sssl", "attention": "none"},
            "unknown weights 'resnet18.fb_sssl'; choose one of: resnet18.a1_in1k, ",
        ),
        ({"backbone": "mobilenetv2_100", "strip_pooling": True}, "set model.attention: none"),
        ({"attention": "sse"}, "unknown attention 'sse'; choose one of: cbam"),
        ({"attention": "se", "strip_pooling": True}, "not both"),
        ({"attention_places": "some"}, "unknown attention_places 'some'"),
        ({"norm": "layer"}, "unknown norm 'layer'"),
        ({"output_stride": 4}, "unknown output stride '4'"),
        ({"num_classes": 0}, "num_classes must be at least 2, got 0"),
        ({"width": 30}, "multiple of 4"),
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
