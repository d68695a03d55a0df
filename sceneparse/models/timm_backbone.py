"""Any timm model as a backbone of four maps."""

from typing import Any

import timm
from torch import Tensor, nn

from sceneparse.errors import InputError


class TimmBackbone(nn.Module):
    """The last four feature maps of a timm model. Raises InputError if it has fewer.

    Shape: (B, 3, H, W) -> four maps (B, channels[i], H_i, W_i)
    """

    def __init__(self, name: str, *, output_stride: int) -> None:
        super().__init__()
        self.features = _create_features(name, output_stride)
        info: Any = self.features.feature_info
        channels, stride = info.channels(), info.reduction()[-1]
        if len(channels) < 4:
            raise InputError(f"backbone '{name}' has {len(channels)} feature maps, 4 are needed")
        if stride != output_stride:
            raise InputError(
                f"backbone '{name}' cannot have output stride {output_stride}; "
                f"set model.output_stride: {stride}"
            )
        self.name = name
        self.channels: tuple[int, ...] = tuple(channels[-4:])
        self.output_stride = output_stride
        self._stage_ends: list[str] = info.module_name()[-4:]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.features(x)[-4:]
        # Some timm transformers return (B, H, W, C).
        return [
            x if x.shape[1] == channels else x.permute(0, 3, 1, 2).contiguous()
            for x, channels in zip(maps, self.channels, strict=True)
        ]

    def first_stages(self, count: int) -> list[nn.Module]:
        """Return the modules that compute the first `count` maps, in timm's order."""
        owners = [(n, m) for n, m in self.features.named_modules() if _owns_tensors(m)]
        # timm's wrapper for features flattens nested names: stages.0 becomes stages_0.
        end = self._stage_ends[count - 1]
        ends = (f"{end}.", f"{end.replace('.', '_')}.")
        inside = [i for i, (name, _) in enumerate(owners) if f"{name}.".startswith(ends)]
        if not inside:
            raise InputError(f"backbone '{self.name}' has no stages to freeze; set model.freeze: 0")
        return [module for _, module in owners[: inside[-1] + 1]]


def _owns_tensors(module: nn.Module) -> bool:
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])


def _create_features(name: str, output_stride: int) -> nn.Module:
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5]) or "see timm.list_models()"
        raise InputError(
            f"unknown backbone '{name}': neither a ResNet of ours (resnet18/34/50/101/152) "
            f"nor a timm model; similar names: {near}"
        )
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        return timm.create_model(name, features_only=True, **options)
    except (RuntimeError, NotImplementedError, TypeError, AssertionError) as error:
        raise InputError(
            f"timm cannot make a backbone of '{name}' with output stride {output_stride} "
            f"({error}); try model.output_stride: 32 or another backbone"
        ) from error
