"""Training losses: logits at the backbone's stride against targets at full size."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from sceneparse.layers.blocks import resize


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Mean cross entropy over the pixels that count; exactly 0, with gradient 0, where none does.

    Shape: logits (B, K, H, W), targets (B, H, W) of any integer type -> scalar
    """
    targets = targets.long()
    total = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")
    return total / (targets != ignore_index).sum().clamp(min=1)


def segmentation_loss(
    outputs: Mapping[str, Tensor], targets: Tensor, *, ignore_index: int, aux_weight: float = 0.4
) -> Tensor:
    """Cross entropy of "out" plus `aux_weight` times that of "aux" where it is there.

    Logits of any size (B, K, h, w) are resized to the targets (B, H, W), in float32.
    """

    def at_full_size(logits: Tensor) -> Tensor:
        return cross_entropy(resize(logits.float(), targets.shape[-2:]), targets, ignore_index)

    loss = at_full_size(outputs["out"])
    if "aux" in outputs:
        loss = loss + aux_weight * at_full_size(outputs["aux"])
    return loss
