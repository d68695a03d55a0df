"""Gradient checkpointing (Chen et al., arXiv 1604.06174): less memory for a third more computing.

Blocks keep only their input; what lies inside is computed again when the backward pass needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(network: nn.Module) -> int:
    """Let every sequence of blocks in a network keep only the blocks' inputs; return how many.

    Names, weights and results stay as they are.
    """
    count = 0
    for name, child in network.named_children():
        if type(child) is nn.Sequential and all(map(_is_block, child)):
            setattr(network, name, CheckpointedBlocks(*child))
            count += len(child)
        else:
            count += checkpoint_blocks(child)
    return count


def _is_block(module: nn.Module) -> bool:
    """Whether a module is neither one layer nor a whole stage."""
    return any(module.children()) and not isinstance(module, nn.Sequential)


class CheckpointedBlocks(nn.Sequential):
    """A sequence whose blocks are computed twice in training, and not kept between.

    Shape: that of the blocks.
    """

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = _twice(block, x) if self.training else block(x)
        return x


def _twice(block: nn.Module, x: Tensor) -> Tensor:
    computed: Tensor = checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _uncounted(block))
    )
    return computed


@contextmanager
def _uncounted(block: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting the same images into their statistics a second time."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
