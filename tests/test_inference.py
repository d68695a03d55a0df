"""Protocols against plain computations with full-size maps of all classes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from benchmarks.eval import plain_test
from sceneparse.data.resizing import Resize, Side
from sceneparse.errors import InputError, NumericalError
from sceneparse.inference import scores as scores_module
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.protocols import PROTOCOLS, Protocol, create_protocol
from sceneparse.inference.windows import WEIGHTINGS, place_windows
from sceneparse.models.segmentation import SegmentationModel


class Strided(nn.Module):
    """A backbone with context, asymmetric so that mirroring matters."""

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.output_stride = output_stride
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 5, stride=output_stride, padding=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x) * 3 + x.mean(dim=(1, 2, 3), keepdim=True)]


class FirstMap(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0] * 1


class EveryPixel(nn.Module):
    """A backbone that sees one pixel in every `output_stride`."""

    def __init__(self, output_stride: int = 1) -> None:
        super().__init__()
        self.output_stride = output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x[..., :: self.output_stride, :: self.output_stride]]


def model_of(backbone: nn.Module) -> SegmentationModel:
    return SegmentationModel(backbone, FirstMap()).eval()


@pytest.fixture(params=[1, 7, 10**6], ids=["rows of 1", "some rows", "one band"])
def band_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compute in bands of one row, of a few rows, and in one band."""
    size = request.param * 4 * 5 * 60
    monkeypatch.setitem(scores_module._BAND_BYTES, "cpu", size)
    return size


def enlarged(model: SegmentationModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits = model(images, upsample=False)["out"]
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=True)


def normalized(pixels: Tensor) -> Tensor:
    return pixels.float() / 64 - 2


def plain_views(protocol: Protocol, model: SegmentationModel, pixels: Tensor) -> Tensor:
    """Compute a protocol with full-size maps: probabilities (1, K, H, W)."""
    height, width = pixels.shape[-2:]
    image, aligned, views = normalized(pixels), protocol.rescale == "uint8", []
    for scale in protocol.scales:
        size = protocol.scaled(height, width, scale)
        scaled = F.interpolate(image, size, mode="bilinear", align_corners=False)
        if protocol.rescale == "training":
            rows = pixels[0].permute(1, 2, 0).contiguous().numpy()
            smaller = size[0] * size[1] < height * width
            kind = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            rows = cv2.resize(rows, size[::-1], interpolation=kind)
            scaled = normalized(torch.tensor(rows).permute(2, 0, 1)[None])
        if aligned:
            rows = pixels[0].permute(1, 2, 0).contiguous().numpy()
            scaled = normalized(torch.tensor(cv2.resize(rows, size[::-1])).permute(2, 0, 1)[None])
        for flip in (False, True)[: 1 + protocol.mirror]:
            source = scaled.flip(-1) if flip else scaled
            # mmsegmentation cuts the mirrored image as any other
            values = plain_windows(protocol, model, source, flip and not aligned)
            values = values.flip(-1) if flip else values
            values = F.interpolate(values, (height, width), mode="bilinear", align_corners=aligned)
            views.append(values.softmax(1) if protocol.average == "logits" else values)
    return torch.stack(views).mean(0)


def plain_windows(
    protocol: Protocol, model: SegmentationModel, image: Tensor, flip: bool
) -> Tensor:
    """Average windows; a mirrored image has mirrored windows and padding."""
    image = image.flip(-1) if flip else image
    height, width = image.shape[-2:]
    if protocol.crop is None:
        stride = model.output_stride if protocol.padding == "align" else 1
        padded = F.pad(image, (0, (1 - width) % stride, 0, (1 - height) % stride))
        padded = padded.flip(-1) if flip else padded
        values = enlarged(model, padded)
        values = values.flip(-1) if flip else values
        values = values.softmax(1) if protocol.average == "softmax" else values
        values = values[..., :height, :width]
        return values.flip(-1) if flip else values
    missing = [max(c - s, 0) for c, s in zip(protocol.crop, (height, width), strict=True)]
    missing = [0, 0] if protocol.padding == "none" else missing
    before = [m // 2 if protocol.padding == "around" else 0 for m in missing]
    padded = F.pad(image, (before[1], missing[1] - before[1], before[0], missing[0] - before[0]))
    crop = [min(c, s) for c, s in zip(protocol.crop, padded.shape[-2:], strict=True)]
    total, weight = torch.zeros(1, 5, *padded.shape[-2:]), torch.zeros(padded.shape[-2:])
    starts = [
        [
            min(k * protocol.stride_of(c), s - c)
            for k in range(-(-(s - c) // protocol.stride_of(c)) + 1)
        ]
        for c, s in zip(crop, padded.shape[-2:], strict=True)
    ]
    bumps = [
        torch.exp(-0.5 * ((torch.arange(c) + 0.5 - c / 2) / (c / 8)) ** 2)
        if protocol.weighting == "gaussian"
        else torch.ones(c)
        for c in crop
    ]
    for top in starts[0]:
        for left in starts[1]:
            where = (..., slice(top, top + crop[0]), slice(left, left + crop[1]))
            window = padded[where]
            values = enlarged(model, window.flip(-1) if flip else window)
            values = values.flip(-1) if flip else values
            values = values.softmax(1) if protocol.average == "softmax" else values
            total[where] += values * bumps[0][:, None] * bumps[1]
            weight[where[1:]] += bumps[0][:, None] * bumps[1]
    values = (total / weight)[..., before[0] :, before[1] :][..., :height, :width]
    return values.flip(-1) if flip else values


CHANGES: list[dict[str, Any]] = [
    {},
    {"mirror": True},
    {"scales": (0.5, 1.0, 1.6), "mirror": True},
    {"base": 48, "weighting": "gaussian"},
]


@pytest.mark.fault(34)
@pytest.mark.parametrize("size", [(37, 53), (13, 60), (1, 1)])
@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_is_what_it_says(
    name: str, change: dict[str, Any], size: tuple[int, int], band_bytes: int
) -> None:
    protocol_gives_plain_views(name, change, size)


@pytest.mark.parametrize("size", [(37, 53), (90, 60)])
@pytest.mark.parametrize("resize", [{"long": 40}, {"short": 20}, {"short": 44}], ids=str)
@pytest.mark.parametrize("name", ["whole", "slide"])
def test_images_resized_as_in_training_are_scored_at_their_own_size(
    name: str, resize: dict[Side, int], size: tuple[int, int]
) -> None:
    protocol_gives_plain_views(name, {"resize": resize}, size)
    protocol_gives_plain_views(name, {"resize": resize, "scales": (0.75, 1.25)}, size)
    protocol = create_protocol(name, resize=resize)
    ((side, length),) = resize.items()
    scaled = protocol.scaled(*size, 1.0)
    assert scaled == Resize(side, length).size(*size)
    assert (max if side == "long" else min)(scaled) == length
    assert f"{side} side {length}" in protocol.description
    assert "resized as in training" in protocol.description


def test_two_base_sizes_contradict_each_other() -> None:
    with pytest.raises(
        InputError, match=r"base size of 320 .* data.resize \(long side 640\).* 0.5"
    ):
        create_protocol("whole", base=320, resize={"long": 640})
    for name in sorted(set(PROTOCOLS) - {"whole", "slide"}):
        with pytest.raises(InputError, match=f"{name} scales .* choose protocol whole or slide"):
            create_protocol(name, resize={"short": 480})


def protocol_gives_plain_views(name: str, change: dict[str, Any], size: tuple[int, int]) -> None:
    protocol = create_protocol(name, crop=(16, 24), **change)
    model = model_of(Strided(4))
    pixels = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    expected = plain_views(protocol, model, pixels)
    with torch.inference_mode():
        found = protocol(model, pixels, normalized)
    torch.testing.assert_close(found.probabilities(), expected, atol=2e-5, rtol=1e-4)
    labels, confidence = found.labels_and_confidence()
    most = expected.max(dim=1)
    torch.testing.assert_close(confidence, most.values, atol=2e-5, rtol=1e-4)
    # if two classes are equally likely, either is right
    clear = most.values - expected.topk(2, dim=1).values[:, 1] > 1e-4
    assert clear.float().mean() > 0.95
    assert torch.equal(labels[clear], most.indices[clear].to(torch.uint8))
    assert torch.equal(found.labels()[clear], labels[clear])


def test_spnet_protocol_is_that_of_research_code() -> None:
    model, image = model_of(Strided(8)), torch.randn(1, 3, 50, 75)
    scales = (0.5, 1.0, 1.75)
    with torch.inference_mode():
        expected = plain_test(
            lambda window: model(window, upsample=False)["out"],
            image,
            crop=48,
            base=96,
            scales=scales,
        )
        protocol = create_protocol("spnet", crop=(48, 48), base=96, scales=scales)
        found = protocol(model, image).probabilities()[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_sizes_of_others_are_known() -> None:
    assert create_protocol("spnet", dataset="ade20k").scaled(512, 683, 1.75) == (672, 896)
    assert create_protocol("mmseg_whole", dataset="ade20k").scaled(300, 450, 1) == (512, 768)
    # never longer than 2048
    assert create_protocol("mmseg_whole", dataset="ade20k").scaled(100, 500, 1) == (410, 2048)
    assert create_protocol("spnet", dataset="camvid").scaled(360, 480, 0.5) == (180, 240)
    # what mmsegmentation's configurations have: crop and stride
    strides = {64: 42, 128: 85, 256: 170, 480: 320, 512: 341, 640: 426, 768: 512, 769: 513}
    assert {c: PROTOCOLS["mmseg_slide"].stride_of(c) for c in strides} == strides


@pytest.mark.parametrize("name", PROTOCOLS)
def test_description_names_what_matters(name: str) -> None:
    protocol = replace(create_protocol(name), scales=(0.5, 1.25), mirror=True, base=512)
    for word in (name, "0.5, 1.25", "mirror", "512"):
        assert word in protocol.description
    assert ("480x480" in protocol.description) == (protocol.crop is not None)


@pytest.mark.fault(34)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(WEIGHTINGS))
@settings(max_examples=60, deadline=None)
def test_windows_cover_everything_with_shares_that_add_up(
    size: int, crop: int, weighting: str
) -> None:
    crop = min(size, crop)
    stride = -(-crop * 2 // 3)
    spans = place_windows(size, crop, stride, weighting)
    starts = [span.start for span in spans]
    assert starts[0] == 0
    assert starts[-1] == size - crop
    assert all(0 < b - a <= stride for a, b in pairwise(starts))
    assert len(spans) == -(-(size - crop) // stride) + 1
    total = torch.zeros(size)
    for span in spans:
        total[span.start : span.start + crop] += span.shares
    torch.testing.assert_close(total, torch.ones(size))


def test_normalization_is_that_of_torchvision() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    expected = normalize(images / 255, list(mean), list(std))
    torch.testing.assert_close(Normalization(mean, std)(images), expected)


@pytest.mark.parametrize("size", [(13, 17), (16, 24), (17, 25), (1, 1), (360, 480)])
def test_whole_image_puts_every_feature_where_it_was_computed(size: tuple[int, int]) -> None:
    model = model_of(EveryPixel(8))
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    image = torch.stack([y, x, y + x])[None].float() / 100
    found = create_protocol("whole")(model, image).probabilities()
    # a linear image sampled at every eighth pixel and resized is itself, away from the padding
    rows, columns = (length - (length - 1) % 8 for length in size)
    expected = image.softmax(dim=1)[..., :rows, :columns]
    torch.testing.assert_close(found[..., :rows, :columns], expected)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    protocol = create_protocol(name, crop=(16, 24), mirror=True)
    model, images = model_of(EveryPixel(2)), torch.randn(3, 3, 30, 41)
    with torch.inference_mode():
        together = protocol(model, images).probabilities()
        alone = [protocol(model, image[None]).probabilities() for image in images]
    torch.testing.assert_close(together, torch.cat(alone))


def test_logits_however_far_apart_give_probabilities() -> None:
    image = torch.randn(1, 3, 8, 8) * 1e6
    found = create_protocol("slide", crop=(6, 6))(model_of(EveryPixel()), image)
    assert torch.equal(found.labels().long(), image.argmax(dim=1))
    assert torch.isfinite(found.probabilities()).all()


@pytest.mark.fault(35)
def test_many_classes_keep_their_numbers() -> None:
    class Many(nn.Module):
        def forward(self, maps: list[Tensor]) -> Tensor:
            return F.one_hot(maps[0][:, 0].long(), 300).permute(0, 3, 1, 2).float()

    model = SegmentationModel(EveryPixel(), Many()).eval()
    image = torch.tensor([[0.0, 255.0, 256.0, 299.0]]).expand(1, 3, 1, 4)
    assert create_protocol("whole")(model, image).labels().tolist() == [[[0, 255, 256, 299]]]


@pytest.mark.fault(33)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_non_finite_scores_are_an_error(name: str) -> None:
    with pytest.raises(NumericalError, match="not finite"):
        create_protocol(name)(model_of(EveryPixel()), torch.full((1, 3, 4, 4), float("nan")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "hole"}, "unknown protocol 'hole'; choose one of: mmseg_slide"),
        ({"crop": (0, 5)}, "in 1..65535"),
        ({"base": 0}, "in 1..65535"),
        ({"scales": []}, "positive"),
        ({"scales": [1.0, float("nan")]}, "positive"),
        ({"weighting": "round"}, "unknown weighting"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_protocol(**{"name": "slide", **change})
