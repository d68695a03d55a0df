"""Training losses: logits against targets, and weighted sums of them. Add your own to LOSSES.

A loss takes logits (B, K, H, W), targets (B, H, W) int64 and settings, and returns a scalar: a mean
over the pixels that count, or a score of classes over them; 0, with gradient 0, if no pixel counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.layers.blocks import resize


@dataclass(frozen=True)
class LossSettings:
    """The settings of all losses.

    `class_weights` (K,): weights of the pixels by class; None: all equal. `ohem_threshold`: pixels
    whose true class has a lower probability are hard; `ohem_keep`: the smallest share of pixels to
    keep. `focal_gamma`: the exponent of focal loss.
    """

    ignore_index: int = 255
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    ohem_threshold: float = 0.7
    ohem_keep: float = 0.0625
    focal_gamma: float = 2.0

    def weights_of(self, targets: Tensor) -> Tensor:
        """Return the weight of each pixel, 0 if it is ignored: (B, H, W) -> (B, H, W) float32."""
        counted = targets != self.ignore_index
        if self.class_weights is None:
            return counted.float()
        weights = self.class_weights.to(targets.device)
        return weights[targets.where(counted, 0)] * counted


def cross_entropy(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Cross entropy, with label smoothing and class weights as in torch's own mean reduction."""
    weights = settings.class_weights
    total = F.cross_entropy(
        logits,
        targets,
        weight=None if weights is None else weights.to(logits),
        ignore_index=settings.ignore_index,
        label_smoothing=settings.label_smoothing,
        reduction="sum",
    )
    return _mean(total, settings.weights_of(targets).sum())


def boundary_cross_entropy(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Cross entropy of the pixels near a boundary: up to 2 pixels from one with another label.

    Ignored pixels do not count, but a boundary with them does.
    """
    labels = targets.float()[:, None]  # max pooling does not take integers on every device
    largest = F.max_pool2d(labels, 5, stride=1, padding=2)
    smallest = -F.max_pool2d(-labels, 5, stride=1, padding=2)
    near = (largest != smallest)[:, 0]
    return cross_entropy(logits, targets.where(near, settings.ignore_index), settings)


def focal(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Cross entropy times (1 - p)^gamma, p the true class's probability (Lin et al., ICCV 2017)."""
    losses = F.cross_entropy(logits, targets, ignore_index=settings.ignore_index, reduction="none")
    weights = settings.weights_of(targets)
    # -expm1(-x) is 1 - exp(-x) without cancellation.
    total = (weights * (-torch.expm1(-losses)) ** settings.focal_gamma * losses).sum()
    return _mean(total, weights.sum())


def ohem(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Cross entropy of the hard pixels only (online hard example mining).

    Hard are the pixels whose true class has a probability below `ohem_threshold`, and in any case
    the share `ohem_keep` of pixels with the largest losses.
    """
    losses = F.cross_entropy(logits, targets, ignore_index=settings.ignore_index, reduction="none")
    counted = targets != settings.ignore_index
    ranked = losses.detach()[counted].sort(descending=True).values
    if len(ranked) == 0:
        return (losses * 0).sum()
    smallest_kept = ranked[max(int(settings.ohem_keep * len(ranked)), 1) - 1]
    threshold = -torch.tensor(settings.ohem_threshold).log().item()
    hard = counted & ((losses > threshold) | (losses >= smallest_kept))
    weights = settings.weights_of(targets) * hard
    return _mean((weights * losses).sum(), weights.sum())


def dice(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """1 - Dice coefficient of the softmax, mean over present classes (Milletari et al., 2016)."""
    counted = (targets != settings.ignore_index)[:, None]
    classes = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    truth = (targets[:, None] == classes) & counted  # (B, K, H, W)
    # PyTorch's softmax is ten times slower on the CPU if the classes are the last axis.
    probabilities = logits.softmax(1) * counted
    pixels = truth.sum((0, 2, 3))
    overlap = (probabilities * truth).sum((0, 2, 3))
    coefficients = 2 * overlap / (probabilities.sum((0, 2, 3)) + pixels).clamp(min=1e-12)
    return _mean_over_classes(1 - coefficients, pixels, settings)


def lovasz_softmax(logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Lovasz extension of 1 - IoU over all pixels of a batch (Berman et al., CVPR 2018).

    Mean over the classes present.
    """
    counted = targets != settings.ignore_index
    probabilities = logits.softmax(1).movedim(1, -1)[counted]  # (N, K)
    truth = F.one_hot(targets[counted], logits.shape[1]).to(probabilities)
    pixels = truth.sum(0)
    losses = probabilities.new_zeros(len(pixels))
    for k in pixels.nonzero().flatten():
        errors, order = (truth[:, k] - probabilities[:, k]).abs().sort(descending=True)
        losses = losses.index_put((k,), errors @ _jaccard_steps(truth[order, k]))
    return _mean_over_classes(losses + 0 * probabilities.sum(), pixels, settings)


def _jaccard_steps(truth: Tensor) -> Tensor:
    """Return what each further wrong pixel adds to 1 - IoU, the largest errors first."""
    missed = truth.cumsum(0)
    intersection = truth.sum() - missed
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    return jaccard.diff(prepend=jaccard.new_zeros(1))


def _mean_over_classes(losses: Tensor, pixels: Tensor, settings: LossSettings) -> Tensor:
    """Average over the classes that have pixels, by class weights if there are some."""
    present = (pixels > 0).to(losses)
    if settings.class_weights is not None:
        present = present * settings.class_weights.to(losses)
    return _mean((losses * present).sum(), present.sum())


def _mean(total: Tensor, weight: Tensor) -> Tensor:
    """Divide a sum by the sum of its weights, or by 1 if that is 0."""
    return total / weight.where(weight > 0, 1)


Loss = Callable[[Tensor, Tensor, LossSettings], Tensor]

LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "boundary_cross_entropy": boundary_cross_entropy,
    "focal": focal,
    "ohem": ohem,
    "dice": dice,
    "lovasz_softmax": lovasz_softmax,
}
# Means over pixels: the loss of a batch follows from the losses of its images.
_PIXELWISE = ("cross_entropy", "focal")


def segmentation_loss(
    outputs: Mapping[str, Tensor],
    targets: Tensor,
    *,
    terms: Mapping[str, float],
    settings: LossSettings,
    aux_weight: float = 0.4,
) -> Tensor:
    """Return the weighted sum of the losses of "out", plus `aux_weight` times that of "aux".

    `terms`: names of LOSSES and their weights. Logits of any size (B, K, h, w) are resized to the
    targets (B, H, W) of any integer type, in float32. To save memory, the gradient with respect to
    the small logits is computed at once, output by output and, if possible, image by image.
    """
    targets = targets.long()
    loss = _weighted_sum(outputs["out"], targets, terms, settings)
    if "aux" in outputs:
        loss = loss + aux_weight * _weighted_sum(outputs["aux"], targets, terms, settings)
    return loss


def _weighted_sum(
    logits: Tensor, targets: Tensor, terms: Mapping[str, float], settings: LossSettings
) -> Tensor:
    total = logits.new_zeros((), dtype=torch.float32)
    for name, weight in terms.items():
        for piece, share in _pieces(name, targets, settings):
            loss_of = partial(_resized_loss, targets=targets[piece], name=name, settings=settings)
            loss: Tensor = _LossWithGradient.apply(logits[piece], loss_of)
            total = total + weight * share * loss
    return total


def _resized_loss(logits: Tensor, targets: Tensor, name: str, settings: LossSettings) -> Tensor:
    return LOSSES[name](resize(logits.float(), targets.shape[-2:]), targets, settings)


def _pieces(name: str, targets: Tensor, settings: LossSettings) -> list[tuple[slice, Any]]:
    """Return the parts of a batch that a loss can be computed on, and their shares of the mean."""
    if name not in _PIXELWISE:
        return [(slice(None), 1.0)]
    weights = torch.stack([settings.weights_of(image).sum() for image in targets])
    shares = _mean(weights, weights.sum())
    return [(slice(i, i + 1), share) for i, share in enumerate(shares)]


class _LossWithGradient(torch.autograd.Function):
    """Compute a scalar loss and its gradient together, so that no tensor between them is kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ANN401
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = loss_of(leaf)
            (gradient,) = torch.autograd.grad(loss, leaf)
        ctx.save_for_backward(gradient)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return outer.to(gradient) * gradient, None
