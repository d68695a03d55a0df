"""Gradient checkpointing (Chen et al., arXiv 1604.06174): less memory for a third more compute.

Blocks keep only their input; the backward pass computes their inner maps again.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(network: nn.Module) -> int:
    """Make the blocks of a network keep only their inputs; return how many blocks do.

    Parameter names, weights and results stay the same.
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
    """Return whether a module is neither a single layer nor a whole stage."""
    return any(module.children()) and not isinstance(module, nn.Sequential)


class CheckpointedBlocks(nn.Sequential):
    """A sequence that computes each block twice in training, instead of keeping its inner maps.

    Shape: as the blocks.
    """

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = _compute_twice(block, x) if self.training else block(x)
        return x


def _compute_twice(block: nn.Module, x: Tensor) -> Tensor:
    contexts = (nullcontext(), _without_statistics(block))  # for the first and the second time
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Keep batch norms from adding the same images to their statistics a second time."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
