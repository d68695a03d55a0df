"""Scores against torchmetrics and a loop over pixels; counts that stay exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from sceneparse.metrics import ConfusionMatrix, scores_from_counts


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_equals_torchmetrics_and_a_loop(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(0, 5, (3, 17, 23), generator=generator)
    targets = torch.randint(0, 5, (3, 17, 23), generator=generator).to(dtype)
    targets[torch.rand(3, 17, 23, generator=generator) < 0.1] = 255
    matrix = ConfusionMatrix(5, 255)
    for prediction, target in zip(predictions, targets, strict=True):
        matrix.update(prediction, target)
    oracle = MulticlassConfusionMatrix(5, ignore_index=255)(predictions, targets.long())
    assert torch.equal(matrix.counts, oracle)
    jaccard = MulticlassJaccardIndex(5, average=None, ignore_index=255)
    scores = matrix.scores()
    np.testing.assert_allclose(scores.iou, jaccard(predictions, targets.long()), atol=1e-6)

    p, t = predictions.flatten().tolist(), targets.flatten().tolist()
    counted = [(a, b) for a, b in zip(p, t, strict=True) if b != 255]
    ious = []
    for k in range(5):
        both = sum(a == b == k for a, b in counted)
        either = sum(k in (a, b) for a, b in counted)
        ious.append(both / either)
    assert scores.mean_iou == pytest.approx(sum(ious) / 5)
    right = sum(a == b for a, b in counted)
    assert scores.pixel_accuracy == pytest.approx(right / len(counted))
    shares = [sum(b == k for _, b in counted) / len(counted) for k in range(5)]
    weighted = sum(share * iou for share, iou in zip(shares, ious, strict=True))
    assert scores.frequency_weighted_iou == pytest.approx(weighted)


def test_absent_class_rule_of_cityscapes() -> None:
    # class 0 right, 1 half right, 2 only predicted (IoU 0), 3 in neither (left out)
    counts = np.array([[4, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = scores_from_counts(counts)
    assert scores.iou[:3].tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(scores.iou[3])
    assert scores.mean_iou == pytest.approx(0.5)
    assert math.isnan(scores.accuracy[2])


def test_nothing_counted_gives_nan_not_zero() -> None:
    scores = scores_from_counts(np.zeros((3, 3), dtype=np.int64))
    assert math.isnan(scores.mean_iou)
    assert math.isnan(scores.pixel_accuracy)


def test_counts_past_32_bits_are_exact() -> None:
    matrix = ConfusionMatrix(2, 255)
    matrix.counts += 2**53
    matrix.update(torch.tensor([1]), torch.tensor([1]))
    assert matrix.counts[1, 1].item() == 2**53 + 1


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        ConfusionMatrix(2, 255).update(torch.tensor([1]), torch.tensor([7]))
