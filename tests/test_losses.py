"""Losses against formulas, loops over pixels and torch; batches without a counted pixel."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.losses import LOSSES, LossSettings, segmentation_loss

IGNORE = 255


def sample(classes: int = 4) -> tuple[Tensor, Tensor]:
    """Return logits and targets of a small batch; class 3 is absent, a third is ignored."""
    torch.manual_seed(1)
    logits = torch.randn(2, classes, 5, 6, dtype=torch.float64)
    targets = torch.randint(0, 3, (2, 5, 6))
    targets[0, :3] = IGNORE
    return logits, targets


def pixels(logits: Tensor, targets: Tensor) -> list[tuple[Tensor, int]]:
    """Return softmax and class of each pixel that counts."""
    return [
        (logits[b, :, y, x].exp() / logits[b, :, y, x].exp().sum(), int(targets[b, y, x]))
        for b, y, x in itertools.product(range(2), range(5), range(6))
        if targets[b, y, x] != IGNORE
    ]


def test_cross_entropy_by_hand() -> None:
    logits, targets = sample()
    terms = [-p[k].log() for p, k in pixels(logits, targets)]
    loss = LOSSES["cross_entropy"](logits, targets, LossSettings())
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_cross_entropy_with_weights_and_smoothing_equals_torch() -> None:
    logits, targets = sample()
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    loss = LOSSES["cross_entropy"](
        logits, targets, LossSettings(class_weights=weights, label_smoothing=0.1)
    )
    expected = F.cross_entropy(
        logits, targets, weight=weights, ignore_index=IGNORE, label_smoothing=0.1
    )
    torch.testing.assert_close(loss, expected)


def test_boundary_cross_entropy_by_hand() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    targets = torch.zeros(2, 9, 12, dtype=torch.int64)
    targets[0, :, 7:] = 2
    targets[1, 8, 0] = IGNORE

    def is_near(b: int, y: int, x: int) -> bool:
        around = targets[b, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        return bool((around != targets[b, y, x]).any())

    near = [
        (b, y, x)
        for b, y, x in itertools.product(range(2), range(9), range(12))
        if targets[b, y, x] != IGNORE and is_near(b, y, x)
    ]
    assert len(near) == 9 * 4 + 8
    terms = [-logits[b, :, y, x].log_softmax(0)[targets[b, y, x]] for b, y, x in near]
    loss = LOSSES["boundary_cross_entropy"](logits, targets, LossSettings())
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_focal_by_hand() -> None:
    logits, targets = sample()
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    terms = [weights[k] * -p[k].log() * (1 - p[k]) ** 1.5 for p, k in pixels(logits, targets)]
    mass = sum(weights[k] for _, k in pixels(logits, targets))
    loss = LOSSES["focal"](logits, targets, LossSettings(class_weights=weights, focal_gamma=1.5))
    torch.testing.assert_close(loss, torch.stack(terms).sum() / mass)


@pytest.mark.parametrize(("threshold", "keep"), [(0.3, 0.0), (0.01, 0.25), (1.0, 1.0)])
def test_ohem_by_hand(threshold: float, keep: float) -> None:
    logits, targets = sample()
    losses = sorted((-p[k].log().item() for p, k in pixels(logits, targets)), reverse=True)
    hard = sum(loss > -math.log(threshold) for loss in losses)
    kept = losses[: max(hard, int(keep * len(losses)), 1)]
    loss = LOSSES["ohem"](logits, targets, LossSettings(ohem_threshold=threshold, ohem_keep=keep))
    assert loss.item() == pytest.approx(sum(kept) / len(kept))


def test_dice_by_hand() -> None:
    logits, targets = sample()
    scores = []
    for k in range(3):
        overlap = sum(p[k] for p, truth in pixels(logits, targets) if truth == k)
        both = sum(p[k] + (truth == k) for p, truth in pixels(logits, targets))
        scores.append(1 - 2 * overlap / both)
    loss = LOSSES["dice"](logits, targets, LossSettings())
    torch.testing.assert_close(loss, torch.stack(scores).mean())


def test_lovasz_softmax_by_its_definition() -> None:
    """Lovasz extension: errors in falling order, times what each adds to the loss of the set."""
    logits, targets = sample()
    listed = pixels(logits, targets)
    losses = []
    for k in range(3):
        truth = {i for i, (_, own) in enumerate(listed) if own == k}
        errors = [(1 - p[k] if own == k else p[k]) for p, own in listed]
        order = sorted(range(len(listed)), key=lambda i: -errors[i].item())

        def jaccard_loss(mistaken: set[int], truth: set[int] = truth) -> float:
            return 1 - len(truth - mistaken) / len(truth | mistaken)

        steps = [
            jaccard_loss(set(order[: n + 1])) - jaccard_loss(set(order[:n]))
            for n in range(len(order))
        ]
        losses.append(sum(errors[i] * step for i, step in zip(order, steps, strict=True)))
    loss = LOSSES["lovasz_softmax"](logits, targets, LossSettings())
    torch.testing.assert_close(loss, torch.stack(losses).mean())  # type: ignore[arg-type]


@pytest.mark.fault(26)
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
@pytest.mark.parametrize("name", LOSSES)
def test_batch_of_ignore_only_has_loss_and_gradient_zero(
    name: str, weights: list[float] | None
) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    settings = LossSettings(class_weights=None if weights is None else torch.tensor(weights))
    targets = torch.full((2, 8, 8), IGNORE)
    loss = segmentation_loss({"out": logits}, targets, terms={name: 1.0}, settings=settings)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", LOSSES)
def test_piece_by_piece_equals_all_at_once(name: str) -> None:
    torch.manual_seed(0)
    out, aux = (torch.randn(3, 4, 4, 4, requires_grad=True) for _ in range(2))
    targets = torch.randint(0, 4, (3, 13, 9), dtype=torch.uint8)
    targets[0, 2:] = IGNORE  # images that weigh differently
    settings = LossSettings(class_weights=torch.tensor([0.5, 2.0, 1.0, 3.0]), label_smoothing=0.1)
    got = segmentation_loss({"out": out, "aux": aux}, targets, terms={name: 2.0}, settings=settings)

    def plain(logits: Tensor) -> Tensor:
        large = F.interpolate(logits, (13, 9), mode="bilinear", align_corners=True)
        return 2 * LOSSES[name](large, targets.long(), settings)

    expected = plain(out) + 0.4 * plain(aux)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(got, [out, aux])
    theirs = torch.autograd.grad(expected, [out, aux])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
