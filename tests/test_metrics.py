"""Scores against torchmetrics and loops over pixels; exact counts; coverage of intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from torch import Tensor
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

from sceneparse.metrics.boundary import BoundaryCounts
from sceneparse.metrics.calibration import BINS, CalibrationCounts
from sceneparse.metrics.confusion import (
    ABSENT_CLASS_RULES,
    ConfusionMatrix,
    group_counts,
    mean_iou,
    scores_from_counts,
)
from sceneparse.metrics.intervals import (
    bootstrap_mean_iou,
    compare_paired,
    few_images_note,
    mean_iou_intervals,
)
from sceneparse.report.tables import span


def random_labels(seed: int = 0, shape: tuple[int, ...] = (3, 17, 23)) -> tuple[Tensor, Tensor]:
    """Return predictions and targets of five classes, a tenth of the targets ignored."""
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(0, 5, shape, generator=generator)
    targets = torch.randint(0, 5, shape, generator=generator)
    targets[torch.rand(shape, generator=generator) < 0.1] = 255
    return predictions, targets


@pytest.mark.fault(30)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_equals_torchmetrics(dtype: torch.dtype) -> None:
    predictions, targets = random_labels()
    matrix = ConfusionMatrix(5, 255)
    matrix.update(predictions.to(dtype), targets.to(dtype))
    oracle = MulticlassConfusionMatrix(5, ignore_index=255)(predictions, targets)
    assert torch.equal(matrix.counts, oracle)
    scores = scores_from_counts(matrix.counts.numpy())
    for found, kind in (
        (scores.iou, MulticlassJaccardIndex),
        (scores.accuracy, MulticlassRecall),
        (scores.precision, MulticlassPrecision),
        (scores.dice, MulticlassF1Score),
    ):
        expected = kind(5, average=None, ignore_index=255)(predictions, targets)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_means_equal_a_loop_over_pixels() -> None:
    predictions, targets = random_labels()
    matrix = ConfusionMatrix(5, 255)
    matrix.update(predictions, targets)
    scores = scores_from_counts(matrix.counts.numpy())
    p, t = predictions.flatten().tolist(), targets.flatten().tolist()
    counted = [(a, b) for a, b in zip(p, t, strict=True) if b != 255]
    ious = []
    for k in range(5):
        both = sum(a == b == k for a, b in counted)
        ious.append(both / sum(k in (a, b) for a, b in counted))
    assert scores.mean_iou == pytest.approx(sum(ious) / 5)
    right = sum(a == b for a, b in counted)
    assert scores.pixel_accuracy == pytest.approx(right / len(counted))
    shares = [sum(b == k for _, b in counted) / len(counted) for k in range(5)]
    weighted = sum(share * iou for share, iou in zip(shares, ious, strict=True))
    assert scores.frequency_weighted_iou == pytest.approx(weighted)


# class 0 right, 1 half right, 2 only predicted, 3 in neither
ABSENT = np.array([[4, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("cityscapes", 1.5 / 3),
        ("truth_only", 1.5 / 2),
        ("absent_is_zero", 1.5 / 4),
        ("absent_is_one", 2.5 / 4),
    ],
)
def test_rules_for_absent_classes(rule: str, expected: float) -> None:
    scores = scores_from_counts(ABSENT, rule)
    assert scores.mean_iou == pytest.approx(expected)
    assert scores.iou[:3].tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(scores.iou[3])
    assert math.isnan(scores.accuracy[2])


@pytest.mark.fault(31)
@pytest.mark.parametrize("rule", ABSENT_CLASS_RULES)
def test_nothing_counted_gives_nan_not_zero(rule: str) -> None:
    scores = scores_from_counts(np.zeros((3, 3), dtype=np.int64), rule)
    assert math.isnan(scores.mean_iou)
    assert math.isnan(scores.pixel_accuracy)


@pytest.mark.fault(30)
def test_counts_past_32_bits_are_exact() -> None:
    matrix = ConfusionMatrix(2, 255)
    matrix.counts += 2**53
    matrix.update(torch.tensor([[[1]]]), torch.tensor([[[1]]]))
    assert matrix.counts[1, 1].item() == 2**53 + 1


def test_labels_outside_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        ConfusionMatrix(2, 255).update(torch.tensor([[[1]]]), torch.tensor([[[7]]]))


@pytest.mark.fault(31)
def test_categories_are_those_of_the_cityscapes_script() -> None:
    # as in its getIouScoreForCategory: pixels taken for another class of the category are right
    counts = np.array([[5, 3, 1], [2, 4, 0], [1, 1, 9]])
    names, grouped = group_counts(counts, ["flat", "flat", "sky"])
    assert names == ["flat", "sky"]
    iou = scores_from_counts(grouped).iou
    assert iou.tolist() == pytest.approx([14 / (14 + 1 + 2), 9 / (9 + 1 + 2)])


def plain_bands(mask: np.ndarray[Any, Any], ratio: float = 0.02) -> np.ndarray[Any, Any]:
    """Return a mask without its erosion, as the authors define it (mask_to_boundary)."""
    distance = max(round(ratio * float(np.hypot(*mask.shape))), 1)
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return mask - eroded[1:-1, 1:-1]


def blobs(seed: int, shape: tuple[int, int] = (60, 90)) -> np.ndarray[Any, Any]:
    """Return connected areas of five classes."""
    coarse = np.random.default_rng(seed).integers(0, 5, (6, 9)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_NEAREST))


@pytest.mark.parametrize("seed", range(4))
def test_boundary_iou_is_that_of_its_authors(seed: int) -> None:
    truth, predicted = blobs(seed), blobs(seed)
    predicted[10:30, 5:60] = np.roll(predicted, 3, axis=1)[10:30, 5:60]
    meter = BoundaryCounts(5, 255)
    meter.update(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])
    for k, found in enumerate(meter.boundary_iou()):
        a, b = (
            plain_bands((truth == k).astype(np.uint8)),
            plain_bands((predicted == k).astype(np.uint8)),
        )
        union = np.logical_or(a, b).sum()
        expected = np.logical_and(a, b).sum() / union if union else np.nan
        assert found == pytest.approx(expected, nan_ok=True)


def contour(labels: np.ndarray[Any, Any], k: int) -> list[tuple[int, int]]:
    """Find the pixels of class k with a counted neighbour of another class, by a loop."""
    found = []
    for y, x in zip(*np.nonzero(labels == k), strict=True):
        near = labels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        if ((near != k) & (near != 255)).any():
            found.append((int(y), int(x)))
    return found


def test_boundary_f1_equals_a_loop_and_leaves_ignored_pixels_out() -> None:
    truth, predicted = blobs(1), np.roll(blobs(1), 2, axis=0)
    truth[20:35, 30:50] = 255
    meter = BoundaryCounts(5, 255)
    meter.update(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])
    predicted = np.where(truth == 255, 255, predicted)
    tolerance = 0.0075 * np.hypot(60, 90)
    for k, found in enumerate(meter.boundary_f1()):
        ours, theirs = contour(predicted, k), contour(truth, k)
        met = [
            sum(any(math.dist(p, q) <= tolerance for q in others) for p in points) / len(points)
            for points, others in ((ours, theirs), (theirs, ours))
        ]
        assert found == pytest.approx(2 * met[0] * met[1] / (met[0] + met[1]))


def test_boundary_scores_of_a_perfect_prediction_are_one() -> None:
    truth = torch.from_numpy(blobs(2))[None]
    meter = BoundaryCounts(5, 255)
    meter.update(truth, truth)
    assert meter.boundary_iou().tolist() == meter.boundary_f1().tolist() == [1.0] * 5
    assert meter.mean_boundary_iou("cityscapes") == 1.0


def test_calibration_error_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (torch.randn(2, 5, 30, 40, generator=generator) * 2).softmax(dim=1)
    _, targets = random_labels(3, (2, 30, 40))
    confidence, labels = probabilities.max(dim=1)
    meter = CalibrationCounts(255)
    meter.update(labels[:1], targets[:1], confidence[:1])
    meter.update(labels[1:], targets[1:], confidence[1:])
    oracle = MulticlassCalibrationError(5, n_bins=BINS, norm="l1", ignore_index=255)
    assert meter.curve().error == pytest.approx(float(oracle(probabilities, targets)), abs=1e-6)


def counts_by_image(images: int, seed: int, skill: float = 0.7) -> np.ndarray[Any, Any]:
    """Return counts of images, each with its own probability of right predictions."""
    generator = np.random.default_rng(seed)
    matrix = ConfusionMatrix(4, 255, range(images), images)
    for _ in range(images):
        truth = generator.integers(0, 4, (1, 8, 8))
        share = np.clip(generator.normal(skill, 0.15), 0, 1)
        wrong = generator.integers(0, 4, truth.shape)
        predicted = np.where(generator.random(truth.shape) < share, truth, wrong)
        matrix.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    return matrix.by_image.numpy()


def test_bootstrap_equals_resampling_one_by_one() -> None:
    by_image = counts_by_image(12, 0)
    interval, classes = bootstrap_mean_iou(by_image, 4000, seed=1)
    generator = np.random.default_rng(7)
    means, firsts = [], []
    for _ in range(4000):
        right, truth, predicted = by_image[generator.integers(0, 12, 12)].sum(axis=0)
        iou = right / (truth + predicted - right)
        means.append(iou.mean())
        firsts.append(iou[0])
    assert (interval.low, interval.high) == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.006
    )
    assert (classes[0].low, classes[0].high) == pytest.approx(
        np.quantile(firsts, [0.025, 0.975]), abs=0.012
    )


def test_jackknife_equals_leaving_out_one_by_one() -> None:
    by_image, other = counts_by_image(9, 0), counts_by_image(9, 1, skill=0.8)
    other[:, 1] = by_image[:, 1]

    def ious(images: list[int], counts: np.ndarray[Any, Any]) -> list[float]:
        each = [
            counts[images, 0, k].sum()
            / sum(counts[i, 1, k] + counts[i, 2, k] - counts[i, 0, k] for i in images)
            for k in range(4)
        ]
        return [sum(each) / 4, *each]

    def ends(scores: Callable[[list[int]], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        left = np.array([scores([i for i in range(9) if i != out]) for out in range(9)])
        reach = 2.306004135 * np.sqrt(8 / 9 * ((left - left.mean(axis=0)) ** 2).sum(axis=0))  # t, 8
        middle = scores([*range(9)])
        return np.stack([middle - reach, middle + reach], axis=1)

    gain = ends(lambda images: np.subtract(ious(images, other), ious(images, by_image)))
    overall, classes = compare_paired(by_image, other, 100)
    found = [[d.interval.low, d.interval.high] for d in (overall, *classes)]
    np.testing.assert_allclose(found, gain, rtol=1e-6)
    # on the logit scale, by the slope of the logit
    middle = np.array(ious([*range(9)], by_image))[:, None]
    linear = ends(lambda images: np.array(ious(images, by_image))) - middle
    logits = np.log(middle / (1 - middle)) + linear / (middle * (1 - middle))
    overall_interval, each = mean_iou_intervals(by_image)
    found = [[i.low, i.high] for i in (overall_interval, *each)]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-6)


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    everything = counts_by_image(4000, 1)
    right, truth, predicted = everything.sum(axis=0)
    actual = float(mean_iou(right, truth, predicted))
    held = held_by_draws = 0
    for start in range(0, 4000, 10):
        images = everything[start : start + 10]
        interval, _ = mean_iou_intervals(images)
        held += interval.low <= actual <= interval.high
        drawn, _ = bootstrap_mean_iou(images, 200, seed=start)
        held_by_draws += drawn.low <= actual <= drawn.high
    assert 370 <= held <= 392  # of 400
    assert held_by_draws < held - 8


def test_images_that_do_not_suffice_have_no_interval() -> None:
    alone, classes = mean_iou_intervals(counts_by_image(1, 0))
    assert all(np.isnan(i.low) and np.isnan(i.high) for i in (alone, *classes))
    by_image = counts_by_image(5, 0)
    by_image[1:, 1, 2] = 0  # one image shows class 2
    by_image[1:, 0, 2] = 0
    by_image[:, :, 3] = by_image[:, 1:2, 3]  # class 3 is right everywhere
    overall, classes = mean_iou_intervals(by_image)
    assert [np.isnan(i.low) for i in classes] == [False, False, True, False]
    assert (classes[3].low, classes[3].high) == (1, 1)
    assert 0 < overall.low < overall.high < 1
    assert span(classes[2]) == "-"


def test_few_images_are_mentioned() -> None:
    assert "only 30 images" in few_images_note(30)
    assert "92 to 96%" in few_images_note(30)
    assert few_images_note(50) == ""


def test_comparison_separates_what_differs_and_only_that() -> None:
    same = counts_by_image(60, 2)
    better = same.copy()
    # class 1 gets a tenth of its missed pixels right, in every image
    gained = (better[:, 1, 1] - better[:, 0, 1] + 9) // 10
    better[:, 0, 1] += gained
    better[:, 2, 1] += gained
    overall, classes = compare_paired(same, better, 2000)
    assert overall.separated
    assert overall.value > 0
    assert overall.interval.low > 0
    assert [c.separated for c in classes] == [False, True, False, False]
    reverse, _ = compare_paired(better, same, 2000)
    assert reverse.value == pytest.approx(-overall.value)
    assert reverse.separated
    unchanged, each = compare_paired(same, same, 500)
    assert unchanged.p_value == 1
    assert not unchanged.separated
    assert not any(c.separated for c in each)


@pytest.mark.parametrize("images", [1, 2, 5, 40])
def test_two_equal_models_are_rarely_separated(images: int) -> None:
    generator = np.random.default_rng(images)
    overall = some_class = 0
    for k in range(100):
        # the same images, and two models that are right by chance equally often
        pairs = [counts_by_image(images, int(generator.integers(2**31))) for _ in range(2)]
        pairs[1][:, 1] = pairs[0][:, 1]
        found, classes = compare_paired(*pairs, 200, seed=k)
        overall += found.separated
        some_class += any(c.separated for c in classes)
    assert overall <= 12  # 5 expected
    assert some_class <= 12
    assert images > 4 or overall == some_class == 0  # 4 images can swap in 16 ways only


def test_permutation_test_is_that_of_scipy() -> None:
    first, second = counts_by_image(9, 3), counts_by_image(9, 4)
    second[:, 1] = first[:, 1]

    # nothing is predicted wrongly: the union is the truth, and IoU a sum over images
    for counts in (first, second):
        counts[:, 2] = counts[:, 0]
    oracle = permutation_test(
        (first[:, 0, 0], second[:, 0, 0]),
        lambda a, b, axis: (b - a).sum(axis=axis),
        permutation_type="samples",
        n_resamples=10_000,
    )
    _, classes = compare_paired(first, second, 10_000)
    assert classes[0].p_value == pytest.approx(oracle.pvalue, abs=0.02)


@given(st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_counts_of_images_add_up_to_the_matrix(images: int, seed: int) -> None:
    predictions, targets = random_labels(seed, (images, 5, 6))
    whole = ConfusionMatrix(5, 255, range(images), images)
    whole.update(predictions, targets)
    shared = torch.zeros(images, 3, 5, dtype=torch.int64)
    for rank in range(3):
        part = ConfusionMatrix(5, 255, range(rank, images, 3), images)
        for number in range(rank, images, 3):
            part.update(predictions[number : number + 1], targets[number : number + 1])
        shared += part.by_image
    assert torch.equal(shared, whole.by_image)
    right, truth, predicted = whole.by_image.sum(dim=0)
    assert torch.equal(right, whole.counts.diagonal())
    assert torch.equal(truth, whole.counts.sum(dim=1))
    assert torch.equal(predicted, whole.counts.sum(dim=0))
