"""List the tensors of a network in each step, without the time that torch's own lists take."""

from typing import NamedTuple

from torch import Tensor, nn


class Tensors(NamedTuple):
    """The parameters of a network, its floating point buffers, and its integer buffers."""

    parameters: list[nn.Parameter]
    floats: list[Tensor]
    integers: list[Tensor]

    @property
    def buffers(self) -> tuple[list[Tensor], list[Tensor]]:
        """The buffers of either type."""
        return self.floats, self.integers


def tensors_of(network: nn.Module) -> Tensors:
    """List the tensors of a network, each once, in the order of `parameters()` and `buffers()`.

    Those build the path of each tensor, which takes several times as long. Nothing is kept between
    steps, so that a network may be moved or changed. Buffers are split by type, since PyTorch
    updates many tensors at once if they are of one type.
    """
    parameters: list[nn.Parameter | None] = []
    buffers: list[Tensor | None] = []
    waiting: list[nn.Module | None] = [network]
    while waiting:
        module = waiting.pop()
        if module is not None:
            parameters += module._parameters.values()
            buffers += module._buffers.values()
            waiting.extend(reversed(module._modules.values()))
    own = {id(parameter): parameter for parameter in parameters if parameter is not None}
    unique = {id(buffer): buffer for buffer in buffers if buffer is not None}.values()
    return Tensors(
        [*own.values()],
        [buffer for buffer in unique if buffer.is_floating_point()],
        [buffer for buffer in unique if not buffer.is_floating_point()],
    )
