"""An exponential moving average of the weights, which often scores better than the last ones."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sceneparse.training.tensors import Tensors, tensors_of


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

    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the present weights of `model`."""
        self.follow(tensors_of(model))

    @torch.no_grad()
    def follow(self, new: Tensors) -> None:
        """Move the average towards the present weights `new` of the network."""
        weight = 1.0 if self.n_averaged == 0 else 1 - self.decay
        own = tensors_of(self.module)
        torch._foreach_lerp_([*own.parameters, *own.floats], [*new.parameters, *new.floats], weight)
        if own.integers:
            torch._foreach_copy_(own.integers, new.integers)
        self.n_averaged += 1
