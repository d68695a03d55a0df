"""3x3 convolutions with a quarter of the multiplications, for processors.

F(4x4, 3x3) of Lavin and Gray (CVPR 2016): a patch of 6x6 pixels gives a tile of 4x4 pixels. Patches
and kernels are transformed, so that 36 products per pair of channels replace 144. They are products
of matrices, which every processor computes at its full rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_PATCH, _TILE = 6, 4
# Transforms of patches, kernels and tiles along one axis.
_OF_PATCHES = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OF_KERNELS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OF_TILES = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
# The product that reaches all pixels of a tile with weight 1, so that it can carry the bias.
_OF_BIAS = _PATCH + 1
# With fewer pairs of channels, transforms take as long as the products that they save (measured).
_MIN_PAIRS = 64 * 128
# Patches that are transformed at a time: few, so that they stay in the cache and in little memory.
_AT_ONCE = 128
# Pixels of tiles per pixel of the map up to which it pays: tiles reach beyond the map's edges.
_MAX_WASTE = 2.0
# Bytes per number: those of 16 bits give errors of a tenth of the outputs' range.
_MIN_BYTES = 4


class WinogradConv2d(nn.Conv2d):
    """Computes a 3x3 convolution of stride 1, with its parameters, by transformed tiles.

    The transformed kernels take four times the memory of the weight. Outputs differ by rounding,
    about 1e-5 of their range. Maps that would fill few of their tiles are convolved as before, and
    so is all that needs gradients, is traced, or is computed in 16 bits, which rounds too coarsely.
    Shape: (B, in_channels, H, W) -> (B, out_channels, H, W), in channels_last layout
    """

    kernels: Tensor
    of_patches: Tensor
    of_tiles: Tensor

    def __init__(self, direct: nn.Conv2d) -> None:
        channels, spacing = (direct.in_channels, direct.out_channels), direct.dilation[0]
        super().__init__(*channels, 3, padding=spacing, dilation=spacing, device="meta")
        self.weight, self.bias = direct.weight, direct.bias
        self._transform()

    def _transform(self) -> None:
        """Transform the weight, where tiles are used; elsewhere keep no memory for it."""
        tensors = dict.fromkeys(("kernels", "of_patches", "of_tiles"), self.weight.new_empty(0))
        if self.weight.device.type == "cpu" and self.weight.dtype.itemsize >= _MIN_BYTES:
            weight = self.weight.detach().double()  # (K, C, 3, 3)
            of_kernels = weight.new_tensor(_OF_KERNELS)
            kernels = torch.einsum("ia,kcab,jb->ijck", of_kernels, weight, of_kernels)
            tensors["kernels"] = kernels.flatten(0, 1)  # (36, C, K)
            for name, rows in (("of_patches", _OF_PATCHES), ("of_tiles", _OF_TILES)):
                matrix = weight.new_tensor(rows)
                tensors[name] = torch.kron(matrix, matrix)  # (36, 36), (16, 36)
        for name, values in tensors.items():
            self.register_buffer(name, values.to(self.weight.dtype), persistent=False)

    def _apply(self, *arguments: Any) -> WinogradConv2d:  # noqa: ANN401 - torch's own
        before = self.weight.device, self.weight.dtype
        super()._apply(*arguments)  # type: ignore[no-untyped-call]
        if (self.weight.device, self.weight.dtype) != before:
            self._transform()
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:  # noqa: ANN401 - torch's own
        super()._load_from_state_dict(*arguments)
        self._transform()

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps."""
        if not self._suits(maps):
            return super().forward(maps)
        height, width = maps.shape[-2:]
        spacing = self.dilation[0]
        side = _TILE * spacing  # of a group of tiles, one for each pixel of the spacing
        rows, columns = -(-height // side), -(-width // side)
        if rows * columns * side**2 > _MAX_WASTE * height * width:
            return super().forward(maps)
        patches = _patches(maps, rows, columns, spacing)
        tiles = maps.new_empty(
            len(maps), rows, _TILE, spacing, columns, _TILE, spacing, self.out_channels
        )
        step = max(_AT_ONCE // (spacing * columns * spacing), 1)
        for of_map, places in zip(patches, tiles, strict=True):
            for part, place in zip(of_map.split(step), places.split(step), strict=True):
                place.copy_(self._tiles(part).permute(0, 4, 1, 2, 5, 3, 6))
        convolved = tiles.view(len(maps), rows * side, columns * side, -1)
        return convolved[:, :height, :width].contiguous().permute(0, 3, 1, 2)

    def _suits(self, maps: Tensor) -> bool:
        """Return whether tiles give the same as a direct convolution, in full precision."""
        is_traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        is_coarse = maps.dtype.itemsize < _MIN_BYTES or torch.is_autocast_enabled("cpu")
        used = (maps, self.weight, self.bias)
        learns = any(tensor is not None and tensor.requires_grad for tensor in used)
        is_usual = maps.device.type == "cpu" and maps.dim() == len("BCHW") and maps.numel() > 0
        return is_usual and not (is_traced or is_coarse or learns)

    def _tiles(self, patches: Tensor) -> Tensor:
        """Convolve patches: (r, d, c, d, 6, 6, C) -> (r, d, c, d, 4, 4, K)."""
        flat = patches.reshape(-1, _PATCH**2, patches.shape[-1])  # (N, 36, C)
        count = len(flat)
        transformed = self.of_patches.expand(count, -1, -1) @ flat
        products = transformed.transpose(0, 1) @ self.kernels  # (36, N, K)
        if self.bias is not None:
            products[_OF_BIAS] += self.bias
        tiles = self.of_tiles.expand(count, -1, -1) @ products.transpose(0, 1)  # (N, 16, K)
        return tiles.view(*patches.shape[:4], _TILE, _TILE, -1)


def _patches(maps: Tensor, rows: int, columns: int, spacing: int) -> Tensor:
    """Return overlapping views of zero-padded maps: (B, C, H, W) -> (B, r, d, c, d, 6, 6, C).

    `spacing`, d: the dilation; a patch has every d-th pixel, so d * d patches cover the same place.
    """
    batch, channels, height, width = maps.shape
    sides = ((count * _TILE + 2) * spacing for count in (rows, columns))
    padded = maps.new_zeros(batch, *sides, channels)
    inner = padded[:, spacing : spacing + height, spacing : spacing + width]
    inner.copy_(maps.permute(0, 2, 3, 1))
    per_image, row, pixel, channel = padded.stride()
    return padded.as_strided(
        (batch, rows, spacing, columns, spacing, _PATCH, _PATCH, channels),
        (
            *(per_image, _TILE * spacing * row, row, _TILE * spacing * pixel, pixel),
            *(spacing * row, spacing * pixel, channel),
        ),
    )


def use_winograd(model: nn.Module) -> None:
    """Replace, in place, the convolutions of a network that Winograd's algorithm makes faster."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d and _gains(child):
                setattr(module, name, WinogradConv2d(child))


def _gains(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is 3x3, of stride 1, keeps the size and has many channels."""
    rows, columns = conv.dilation
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and rows == columns
        and conv.padding == conv.dilation
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and conv.in_channels * conv.out_channels >= _MIN_PAIRS
    )
