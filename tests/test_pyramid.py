"""Backbones without four maps of their own: vision transformers, and those of three maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch.nn import functional as F

from sceneparse.errors import InputError
from sceneparse.export import export_onnx
from sceneparse.layers.checkpointing import checkpoint_blocks
from sceneparse.layers.pyramid import Level, _closest
from sceneparse.models import create_segmentation_model
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.timm_backbone import TimmBackbone
from sceneparse.studies.costs import saved_bytes
from sceneparse.training.optim import create_optimizer

SMALL = "test_vit3"  # patches of 16, 9 blocks of 96 channels


def create(name: str = SMALL, output_stride: int = 16, **settings: object) -> SegmentationModel:
    torch.manual_seed(0)
    options = {"output_stride": output_stride, "width": 8, **settings}
    return create_segmentation_model("deeplabv3plus", name, 3, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("vit_small_patch16_224", 16),  # position embeddings, resized
        ("vit_small_patch14_reg4_dinov2", 14),  # with registers
        ("vit_small_patch16_dinov3", 16),  # with rotary embeddings
        ("efficientvit_m0", 1),  # maps of strides 16, 32 and 64
        ("nest_tiny", 224),  # maps of strides 4, 8 and 16, of one size only
    ],
)
def test_maps_have_the_strides_at_any_size(name: str, unit: int, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(name, output_stride=output_stride).eval()
        size = (unit * -(-97 // unit), unit * -(-161 // unit))
        maps = backbone(torch.empty(2, 3, *size))
    assert backbone.size_multiple == unit
    assert list(backbone.strides) == [
        4,
        min(8, output_stride),
        min(16, output_stride),
        output_stride,
    ]
    assert [tuple(x.shape) for x in maps] == [
        (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("strides", "targets", "sources"),
    [
        ((8, 16, 32), (4, 8, 16, 32), (0, 0, 1, 2)),
        ((4, 8, 16), (4, 8, 16, 32), (0, 1, 2, 2)),
        ((4, 8, 16), (4, 8, 8, 8), (0, 1, 1, 2)),
        ((16, 32, 64), (4, 8, 16, 32), (0, 0, 1, 2)),
        ((12, 17), (4, 8, 16, 16), (0, 0, 1, 1)),
        ((14, 14, 14, 14), (4, 8, 16, 16), (0, 1, 2, 3)),
        ((16,), (4, 8, 16, 32), (0, 0, 0, 0)),
    ],
)
def test_each_map_serves_the_closest_strides(
    strides: tuple[int, ...], targets: tuple[int, ...], sources: tuple[int, ...]
) -> None:
    assert _closest(strides, targets) == sources


def test_level_enlarges_as_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    level = Level(64, 16, 4, detailed=True)
    x = torch.randn(2, 64, 3, 5)
    normed = F.layer_norm(x.movedim(1, -1), (64,)).movedim(-1, 1)  # as created: no scale, no shift
    weight, bias = level.rescale[0].weight, level.rescale[0].bias  # type: ignore[index]
    kernel = weight.view(16, 4, 4, 64).movedim(3, 0)  # (in_channels, channels, 4, 4)
    expected = F.conv_transpose2d(normed, kernel, stride=4)
    expected += bias.view(16, 4, 4).repeat(1, 3, 5)
    torch.testing.assert_close(level(x, (12, 20)), expected)


@torch.no_grad()
def test_blocks_are_evenly_spaced_and_equal_timm_at_another_size() -> None:
    size = (80, 112)
    backbone = TimmBackbone(SMALL, output_stride=16).eval()
    theirs = timm.create_model(SMALL, img_size=size).eval()
    weights = {k.removeprefix("model."): v for k, v in backbone.features.state_dict().items()}
    extra = theirs.num_prefix_tokens
    weights["pos_embed"] = resample_abs_pos_embed(
        weights["pos_embed"], [5, 7], num_prefix_tokens=extra
    )
    theirs.load_state_dict(weights, strict=False)
    images = torch.randn(1, 3, *size)
    blocks = theirs.forward_intermediates(images, intermediates_only=True)
    for found, block in zip(backbone.features(images), (1, 3, 5, 8), strict=True):
        torch.testing.assert_close(found, blocks[block])


@pytest.mark.parametrize("name", [SMALL, "efficientvit_m0"])
def test_pretrained_weights_fit_and_the_pyramid_learns_as_the_heads(
    name: str, tmp_path: Path
) -> None:
    weights = timm.create_model(name).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    norm = "batch" if name == SMALL else "frozen"  # a ViT has no batch norms
    model = create(name, pretrained=tmp_path / "weights.safetensors", norm=norm)
    model.freeze_stages(2)
    backbone = model.backbone
    for key, value in backbone.features.state_dict().items():  # type: ignore[union-attr]
        flat = {k.replace(".", "_"): v for k, v in weights.items()}
        assert torch.equal(value, flat[key.removeprefix("model.").replace(".", "_")])
    used = {*backbone.pyramid.parameters()}  # type: ignore[union-attr]
    used -= {*backbone.pyramid.levels[1].parameters()}  # type: ignore[union-attr]
    optimizer = create_optimizer(model, lr=0.1, head_lr_factor=10.0, momentum=0.9, weight_decay=0.0)
    slow, fast = ({*group["params"]} for group in optimizer.param_groups)
    assert slow <= {*backbone.features.parameters()}  # type: ignore[union-attr]
    assert fast == used | {*model.head.parameters()} | {*model.aux_head.parameters()}  # type: ignore[union-attr]


def test_frozen_blocks_are_those_of_the_first_maps() -> None:
    model = create()
    model.freeze_stages(2)
    features = model.backbone.features  # type: ignore[union-attr]
    frozen = {key for key, value in features.named_parameters() if not value.requires_grad}
    parts = (
        "pos_embed",
        "cls_token",
        "reg_token",
        "patch_embed",
        *(f"blocks.{i}." for i in range(4)),
    )
    names = [key for key, _ in features.named_parameters()]
    assert frozen == {key for key in names if key.removeprefix("model.").startswith(parts)}


def test_stages_that_end_without_weights_are_frozen_too() -> None:
    with torch.device("meta"):
        backbone = TimmBackbone("mobilevitv2_050", output_stride=32)
    frozen = {p for module in backbone.first_stages(4) for p in module.parameters()}
    assert frozen == {*backbone.parameters()}


@pytest.mark.parametrize("name", [SMALL, "eva02_tiny_patch14_224", "efficientvit_m0"])
def test_checkpointed_blocks_compute_the_same_gradients(name: str) -> None:
    plain, thrifty = create(name, 32), create(name, 32)
    assert checkpoint_blocks(thrifty.backbone)
    images = torch.randn(2, 3, *plain.fitting_size(56, 56))
    for model in (plain, thrifty):
        torch.manual_seed(0)
        outputs = model.train()(images)
        sum(logits.square().mean() for logits in outputs.values()).backward()
    for ours, theirs in zip(thrifty.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
    for ours, theirs in zip(thrifty.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    side = images.shape[-1]
    assert saved_bytes(thrifty, side, 2) < 0.8 * saved_bytes(plain, side, 2)


@pytest.mark.parametrize(
    ("head", "aux", "used"),
    [("fcn", False, {3}), ("fcn", True, {2, 3}), ("deeplabv3plus", True, {0, 2, 3})],
)
def test_only_levels_that_a_head_uses_are_trained(head: str, aux: bool, used: set[int]) -> None:
    def build() -> SegmentationModel:
        return create_segmentation_model(head, SMALL, 3, output_stride=32, width=8, aux=aux)

    with torch.inference_mode():  # as the check of exported weights builds it
        aside = build()
    model = build()
    flags = [[p.requires_grad for p in network.parameters()] for network in (aside, model)]
    assert flags[0] == flags[1]
    levels = model.backbone.pyramid.levels  # type: ignore[union-attr]
    trained = [[p.requires_grad for p in level.parameters()] for level in levels]
    assert trained == [[index in used] * len(flags) for index, flags in enumerate(trained)]
    outputs = model(torch.randn(2, 3, 64, 64))
    sum(logits.square().mean() for logits in outputs.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_an_onnx_file_takes_sizes_that_the_strides_do_not_divide(tmp_path: Path) -> None:
    model = create(output_stride=32).eval()
    model.meta |= {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "classes": ["a"] * 3,
        "colors": [[0] * 3] * 3,
    }
    assert len(export_onnx(model, tmp_path / "model.onnx")) == 3  # compared at three sizes


def test_sizes_that_patches_do_not_divide_are_refused_with_those_that_fit() -> None:
    with torch.device("meta"):
        model = create("vit_small_patch14_dinov2")
    with pytest.raises(InputError, match=r"augment.crop 97x161 .* of 14: use 84x154 or 98x168"):
        model.require_fit(97, 161, "augment.crop")
