"""An exponential moving average of the weights, which often scores better than the last ones."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """A copy of a network whose weights follow it: decay * own + (1 - decay) * new.

    `module` is the copy. The statistics of batch norms are averaged too; integer buffers are
    copied, and the first update copies everything. All tensors are updated at once: PyTorch's own
    update takes them one by one, which takes twice as long for a small network
    (Polyak and Juditsky, 1992; Tarvainen and Valpola, NeurIPS 2017).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the present weights of `model`."""
        weight = 1.0 if self.n_averaged == 0 else 1 - self.decay
        own, counts = floats_and_integers([*self.module.parameters(), *self.module.buffers()])
        new, new_counts = floats_and_integers([*model.parameters(), *model.buffers()])
        torch._foreach_lerp_(own, new, weight)
        if counts:
            torch._foreach_copy_(counts, new_counts)
        self.n_averaged += 1


def floats_and_integers(tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Split tensors by type, since PyTorch updates many at once if they are of one type."""
    every = list(tensors)
    floats = [tensor for tensor in every if tensor.is_floating_point()]
    return floats, [tensor for tensor in every if not tensor.is_floating_point()]
