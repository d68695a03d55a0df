"""The mmseg protocols against mmsegmentation 1.x, written anew from its documentation.

Its test pipeline is Resize(scale, keep_ratio=True) by OpenCV on uint8, then normalisation; test_cfg
is dict(mode="whole") or dict(mode="slide", crop_size, stride); its TTA averages softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.data.loader import Batch
from sceneparse.errors import InputError
from sceneparse.inference.predictor import Predictor
from sceneparse.inference.protocols import create_protocol
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.runtime.precision import Compute
from sceneparse.training.loop import evaluate

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CROP, STRIDE = (40, 57), (26, 38)


class Backbone(nn.Module):
    """Context of many pixels at stride 4; asymmetric, so that mirroring matters."""

    output_stride = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 7, 9, stride=4, padding=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [4 * self.conv(x) + 2 * x.mean(dim=(1, 2, 3), keepdim=True)]


class Head(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0]


def a_model(align_corners: bool) -> SegmentationModel:
    model = SegmentationModel(Backbone(), Head()).eval()
    model.align_corners = align_corners
    names = [str(k) for k in range(7)]
    model.meta |= {"classes": names, "colors": [[k, k, k] for k in range(7)]}
    model.meta |= {"mean": MEAN, "std": STD}
    return model


def rescaled(image: np.ndarray, scale: tuple[int, int] | float | None) -> np.ndarray:
    """Resize as mmcv's Resize(scale=...) or Resize(scale_factor=...) with keep_ratio."""
    if scale is None:
        return image
    height, width = image.shape[:2]
    if isinstance(scale, float):
        scale = (int(width * scale + 0.5), int(height * scale + 0.5))
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return cv2.resize(image, (int(width * factor + 0.5), int(height * factor + 0.5)))


def logits_of(model: SegmentationModel, x: Tensor, slide: bool, align: bool) -> Tensor:
    def encode_decode(part: Tensor) -> Tensor:
        found = model(part, upsample=False)["out"]
        return F.interpolate(found, part.shape[2:], mode="bilinear", align_corners=align)

    if not slide:
        return encode_decode(x)
    height, width = x.shape[2:]
    total, count = torch.zeros(1, 7, height, width), torch.zeros(height, width)
    for row in range(max(height - CROP[0] + STRIDE[0] - 1, 0) // STRIDE[0] + 1):
        for column in range(max(width - CROP[1] + STRIDE[1] - 1, 0) // STRIDE[1] + 1):
            bottom = min(row * STRIDE[0] + CROP[0], height)
            right = min(column * STRIDE[1] + CROP[1], width)
            where = slice(max(bottom - CROP[0], 0), bottom), slice(max(right - CROP[1], 0), right)
            total[(..., *where)] += encode_decode(x[(..., *where)])
            count[where] += 1
    return total / count


def mmseg(
    model: SegmentationModel, image: np.ndarray, scales: list[Any], flips: bool, slide: bool
) -> Tensor:
    """Return scores (1, K, H, W): logits of one view, or the mean softmax of several."""
    align, views = model.align_corners, []
    for scale in scales:
        pixels = torch.from_numpy(rescaled(image, scale)).permute(2, 0, 1)[None].float()
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (MEAN, STD))
        x = (pixels - mean) / std
        for flip in (False, True)[: 1 + flips]:
            found = logits_of(model, x.flip(3) if flip else x, slide, align)
            found = found.flip(3) if flip else found
            views.append(
                F.interpolate(found, image.shape[:2], mode="bilinear", align_corners=align)
            )
    return views[0] if len(views) == 1 else torch.stack(views).softmax(2).mean(0)


CASES: dict[str, tuple[dict[str, Any], list[Any], bool]] = {
    "own size": ({}, [None], False),
    "larger": ({"base": 150}, [(2048, 150)], False),
    "smaller": ({"base": 47}, [(2048, 47)], False),
    "test-time augmentation": ({"scales": [0.55, 1.25], "mirror": True}, [0.55, 1.25], True),
}


@pytest.mark.parametrize("align_corners", [True, False], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("slide", [False, True], ids=["whole", "slide"])
@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_mmsegmentation(case: str, slide: bool, align_corners: bool) -> None:
    settings, scales, flips = CASES[case]
    model, found = a_model(align_corners), []
    protocol = create_protocol("mmseg_slide" if slide else "mmseg_whole", crop=CROP, **settings)
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(image, (131, 93)) for image in images])
    with torch.inference_mode():
        expected = torch.cat([mmseg(model, image, scales, flips, slide) for image in images])
    predictor = Predictor(model, device="cpu", amp="off")
    predictor.protocol = protocol
    found.append(torch.tensor(np.stack([p.labels for p in predictor.batch([*images])])))
    # validation and evaluation
    batch = Batch(torch.from_numpy(images).permute(0, 3, 1, 2), torch.zeros(2, 93, 131), ("a", "b"))
    how: dict[str, Any] = {"infer": protocol, "normalize": predictor.normalize}
    keep: Callable[[Batch, Tensor], None] = lambda _, labels: found.append(labels)  # noqa: E731
    evaluate(model, [batch], [], compute=Compute(torch.device("cpu")), after_batch=keep, **how)
    best = expected.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-4
    assert clear.float().mean() > 0.99
    for labels in found:
        assert torch.equal(labels[clear].long(), expected.argmax(dim=1)[clear])


def test_rescaling_needs_pixels() -> None:
    protocol = create_protocol("mmseg_whole", base=20)
    with pytest.raises(InputError, match="give uint8 images and a normalisation"):
        protocol(a_model(True), torch.randn(1, 3, 40, 40))
