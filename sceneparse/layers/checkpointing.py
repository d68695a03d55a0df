"""Gradient checkpointing (Chen et al., arXiv 1604.06174): less memory for a third more compute.

Blocks keep only their input; the backward pass computes their inner maps again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(network: nn.Module) -> int:
    """Make the blocks of a network keep only their inputs in training; return how many blocks do.

    Parameter names, weights and results stay the same.
    """
    count = 0
    for child in network.children():
        blocks = list(child.children())
        listed = type(child) in (nn.Sequential, nn.ModuleList) and all(map(_is_block, blocks))
        inside = 0 if listed and type(child) is nn.Sequential else checkpoint_blocks(child)
        if listed and not inside:
            for block in blocks:
                # The calls of the block are replaced, since some networks iterate over their lists.
                block.forward = partial(_compute_twice, block, block.forward)
            inside = len(blocks)
        count += inside
    return count


def _is_block(module: nn.Module) -> bool:
    """Return whether a module is neither a single layer nor a whole stage."""
    return any(module.children()) and not isinstance(module, nn.Sequential | nn.ModuleList)


def _compute_twice(
    block: nn.Module,
    forward: Callable[..., Any],
    *inputs: Any,  # noqa: ANN401
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Compute a block, in training a second time in the backward pass, from the same inputs."""
    if not block.training:
        return forward(*inputs, **options)

    def compute(*inputs: Any) -> Any:  # noqa: ANN401
        # Blocks that put their results into a given list must get the same list twice.
        return forward(*(list(x) if isinstance(x, list) else x for x in inputs), **options)

    contexts = (nullcontext(), _without_statistics(block))  # for the first and the second time
    return checkpoint(compute, *inputs, use_reentrant=False, context_fn=lambda: contexts)


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
