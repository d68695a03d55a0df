"""Any timm model as a backbone: its own four maps, or those of a pyramid on what it has."""

from typing import Any

from torch import Tensor, nn

from sceneparse.errors import InputError
from sceneparse.layers.pyramid import Pyramid
from sceneparse.models.timm_features import create_features, find_needs, read_maps

# The prefix of tensors in segmentation models that no pretrained backbone has.
PYRAMID = "backbone.pyramid."
_STRIDES = (4, 8, 16, 32)


class TimmBackbone(nn.Module):
    """Four feature maps of a timm model.

    Those are its last four if it has four with the output stride. A pyramid makes them from evenly
    spaced blocks of vision transformers, and from the maps of models with other numbers or strides.
    `strides`: input pixels per pixel of each map. `size_multiple`: heights and widths must be
    multiples of it. `min_size`, `max_size`: the shortest and longest side, None if there is no
    limit. Raises InputError if the model cannot be a backbone.

    Shape: (B, 3, H, W) -> four maps (B, channels[i], H_i, W_i)
    """

    def __init__(self, name: str, *, output_stride: int) -> None:
        super().__init__()
        needs = find_needs(name, output_stride)
        self.features = create_features(name, needs.options)
        info: Any = self.features.feature_info
        self.name = name
        self.channels: tuple[int, ...] = tuple(info.channels()[-4:])
        self.strides: tuple[int, ...] = tuple(info.reduction()[-4:])
        self.output_stride = output_stride
        self.size_multiple = needs.multiple
        self.min_size, self.max_size = needs.smallest, needs.largest
        self._stage_ends: list[str] = info.module_name()[-4:]
        self.pyramid: Pyramid | None = None
        if needs.joined:
            targets = tuple(min(stride, output_stride) for stride in _STRIDES)
            self.pyramid = Pyramid(self.channels, self.strides, targets)
            self.channels, self.strides = self.pyramid.channels, targets
            self._stage_ends = [self._stage_ends[source] for source in self.pyramid.sources]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = read_maps(self.features, x)
        return maps if self.pyramid is None else self.pyramid(maps, x.shape[-2:])

    @property
    def prefix(self) -> str:
        """What timm's wrapper for features adds to the names of all modules and tensors."""
        children = [name for name, _ in self.features.named_children()]
        return f"{children[0]}." if children in (["model"], ["body"]) else ""

    def first_stages(self, count: int) -> list[nn.Module]:
        """Return the modules that compute the first `count` maps, in timm's order.

        A module that computes later maps too is replaced by its own parameters. Raises InputError
        if the names that timm gives do not tell which modules these are.
        """
        modules = [
            (f"{name.removeprefix(self.prefix)}.", module)
            for name, module in self.features.named_modules()
        ]
        # timm's wrapper for features flattens nested names: stages.0 becomes stages_0.
        ends = [(f"{end}.", f"{end.replace('.', '_')}.") for end in self._stage_ends[:count]]
        places = [
            [i for i, (name, _) in enumerate(modules) if name.startswith(end)] for end in ends
        ]
        if not places[-1]:
            raise InputError(f"backbone '{self.name}' has no stages to freeze; set model.freeze: 0")
        last = max(max(found, default=0) for found in places) + 1
        owners = [module for _, module in modules[:last] if _owns_tensors(module)]
        later = {id(module) for _, module in modules[last:] if _owns_tensors(module)}
        return [
            nn.ParameterList(module.parameters(recurse=False))
            if later.intersection(map(id, module.modules()))
            else module
            for module in owners
        ]


def _owns_tensors(module: nn.Module) -> bool:
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])
