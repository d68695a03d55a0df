"""Inference functions against brute force."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from sceneparse.errors import InputError, NumericalError
from sceneparse.inference import (
    Normalization,
    create_infer,
    predict_labels,
    sliding_window,
    whole_image,
    window_starts,
)
from sceneparse.models.segmentation import SegmentationModel


class EveryPixel(nn.Module):
    """A backbone of stride 1 that sees one pixel at a time."""

    output_stride = 1

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


class FirstMap(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0] * 2 + 1


def pointwise() -> SegmentationModel:
    return SegmentationModel(EveryPixel(), FirstMap()).eval()


def test_normalization_is_that_of_torchvision() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    expected = normalize(images / 255, list(mean), list(std))
    torch.testing.assert_close(Normalization(mean, std)(images), expected)


@pytest.mark.parametrize(("size", "crop"), [(768, 768), (1024, 768), (2048, 768), (7, 3), (5, 1)])
def test_windows_cover_everything_with_the_public_stride(size: int, crop: int) -> None:
    starts = window_starts(size, crop)
    stride = -(-crop * 2 // 3)
    assert starts[0] == 0
    assert starts[-1] == size - crop
    assert all(0 < b - a <= stride for a, b in pairwise(starts))
    # as few windows as that stride allows
    assert len(starts) == -(-(size - crop) // stride) + 1


def test_sliding_equals_whole_for_a_pointwise_network() -> None:
    images = torch.randn(2, 3, 37, 53)
    model = pointwise()
    expected = whole_image(model, images).softmax(dim=1)
    for crop in ((10, 10), (37, 53), (64, 16), (64, 99)):
        got = sliding_window(model, images, crop=crop, batch=3)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(got.sum(dim=1), torch.ones(2, 37, 53))


def test_sliding_averages_overlaps() -> None:
    class Context(nn.Module):
        output_stride = 1

        def forward(self, x: Tensor) -> list[Tensor]:
            return [x - x.mean(dim=(2, 3), keepdim=True)]

    model = SegmentationModel(Context(), FirstMap()).eval()
    image = torch.randn(1, 3, 4, 8)
    total, seen = torch.zeros(1, 3, 4, 8), torch.zeros(8)
    for left in (0, 4, 2):  # crop 6: stride 4, the last window moved back to 2
        if left == 4:
            continue
        window = image[..., left : left + 6]
        logits = (window - window.mean(dim=(2, 3), keepdim=True)) * 2 + 1
        total[..., left : left + 6] += logits.softmax(dim=1)
        seen[left : left + 6] += 1
    torch.testing.assert_close(sliding_window(model, image, crop=(4, 6)), total / seen)


@pytest.mark.parametrize("size", [(13, 17), (16, 24), (17, 25), (1, 1), (360, 480)])
def test_whole_image_puts_every_feature_where_it_was_computed(size: tuple[int, int]) -> None:
    class EveryEighthPixel(nn.Module):
        output_stride = 8

        def forward(self, x: Tensor) -> list[Tensor]:
            return [x[..., ::8, ::8]]

    model = SegmentationModel(EveryEighthPixel(), FirstMap()).eval()
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    image = torch.stack([y, x, y + x])[None].float()
    scores = whole_image(model, image)
    # a linear image sampled at every eighth pixel and resized is itself, away from the padding
    rows, columns = (length - (length - 1) % 8 for length in size)
    expected = (image * 2 + 1)[..., :rows, :columns]
    torch.testing.assert_close(scores[..., :rows, :columns], expected)


def test_non_finite_scores_are_an_error() -> None:
    with pytest.raises(NumericalError, match="not finite"):
        predict_labels(whole_image, pointwise(), torch.full((1, 3, 4, 4), float("nan")))


def test_window_must_be_positive() -> None:
    with pytest.raises(InputError, match="positive"):
        create_infer("slide", (0, 5))
