"""Tensors from files that others made: nothing in them is run, and little cannot stand for much."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sceneparse.errors import InputError, refusing

_NOT_WEIGHTS = "damaged or not a weights file"


class _NumberKind:
    """Stands for numpy.dtype, whose own reading of a damaged state can crash the process."""

    def __init__(self, kind: str, align: bool = False, copy: bool = False) -> None:
        del align, copy  # as pickles of numpy.dtype give them
        if kind not in {"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1"}:
            raise ValueError(f"numpy numbers of type {kind[:10]!r}")
        self.kind, self.order = kind, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]
        if self.order not in {"<", ">", "=", "|"}:
            raise ValueError("numpy numbers of unknown byte order")


def _number(kind: _NumberKind, data: bytes) -> float | int | bool:
    """Stands for the function that makes numpy's numbers, and makes plain ones."""
    (number,) = np.frombuffer(data, np.dtype(f"{kind.order}{kind.kind}"))
    plain: float | int | bool = number.item()
    return plain


# Training scripts of old kept scores beside the weights, as numpy numbers.
_NUMPY_NUMBERS: list[Any] = [
    (_NumberKind, "numpy.dtype"),
    # before and after numpy 2
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def read_tensors(path: Path) -> Any:  # noqa: ANN401 - a file can hold anything
    """Read what torch.save wrote: tensors and plain values. Raises InputError for anything else."""
    with refusing(path, _NOT_WEIGHTS):
        _refuse_compressed(path)
        try:
            with torch.serialization.safe_globals(_NUMPY_NUMBERS):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{path}: refused, it is damaged or holds more than tensors and plain values"
            ) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file; raises InputError naming it."""
    with refusing(path, _NOT_WEIGHTS):
        return load_file(path)


def require_plain(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise InputError for tensors that are not ordinary arrays of as many numbers as they show."""
    for name, tensor in tensors.items():
        kind = _odd_kind(tensor)
        if kind is not None:
            raise InputError(f"{source}: '{name}' is no ordinary tensor but {kind}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{source}: '{name}' shows more numbers than the file holds")


def _odd_kind(tensor: Tensor) -> str | None:
    if tensor.layout is not torch.strided:
        return str(tensor.layout)
    if tensor.device.type != "cpu":
        return f"on {tensor.device}"
    odd = {"quantised": tensor.is_quantized, "nested": tensor.is_nested}
    return next((kind for kind, is_so in odd.items() if is_so), None)


def _refuse_compressed(path: Path) -> None:
    """Refuse zip entries that would unpack to more than they are: torch.save compresses none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise InputError(f"{path}: refused, it would unpack to {unpacked:,} bytes")
