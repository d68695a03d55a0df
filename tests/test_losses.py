"""Losses against the formula, and batches in which nothing counts."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from sceneparse.losses import cross_entropy, segmentation_loss


def test_mean_over_the_pixels_that_count() -> None:
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    targets = torch.randint(0, 4, (2, 5, 6), dtype=torch.uint8)
    targets[0, :3] = 255
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    terms = [
        -probabilities[b, targets[b, y, x].long(), y, x].log()
        for b in range(2)
        for y in range(5)
        for x in range(6)
        if targets[b, y, x] != 255
    ]
    torch.testing.assert_close(cross_entropy(logits, targets, 255), torch.stack(terms).mean())


def test_auxiliary_loss_is_weighted_and_logits_are_resized() -> None:
    out, aux = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    targets = torch.randint(0, 3, (1, 13, 9))

    def full(logits: torch.Tensor) -> torch.Tensor:
        return F.interpolate(logits, (13, 9), mode="bilinear", align_corners=True)

    expected = F.cross_entropy(full(out), targets) + 0.4 * F.cross_entropy(full(aux), targets)
    loss = segmentation_loss({"out": out, "aux": aux}, targets, ignore_index=255)
    torch.testing.assert_close(loss, expected)


def test_batch_of_ignore_only_has_loss_and_gradient_zero() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), 255), 255)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))
