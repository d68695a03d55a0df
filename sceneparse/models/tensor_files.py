"""Reading tensors from files of others: no code in them runs, no small file fills the memory."""

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
from sceneparse.files import check_unpacked_size

_NOT_WEIGHTS = "damaged or not a weights file"


class _NumberKind:
    """A replacement for numpy.dtype, which can crash the process on a damaged state."""

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
    """Build a plain number, in place of numpy's function for its scalars."""
    (number,) = np.frombuffer(data, np.dtype(f"{kind.order}{kind.kind}"))
    return number.item()


# Old training scripts saved scores beside the weights, as numbers of numpy.
_NUMPY_NUMBERS: list[Any] = [
    (_NumberKind, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),  # before numpy 2
    (_number, "numpy._core.multiarray.scalar"),
]


def read_tensors(path: Path) -> Any:  # noqa: ANN401 - a file can hold anything
    """Read a file of torch.save with tensors and plain values; raises InputError for any other."""
    with refusing(path, _NOT_WEIGHTS):
        if zipfile.is_zipfile(path):  # torch.save does not compress
            check_unpacked_size(path, path.stat().st_size)
        try:
            with torch.serialization.safe_globals(_NUMPY_NUMBERS):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{path}: refused, it is damaged or holds more than tensors and plain values"
            ) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file; raises InputError."""
    with refusing(path, _NOT_WEIGHTS):
        return load_file(path)


def require_plain(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise InputError if a tensor is not a plain array on the CPU, with all its numbers stored."""
    for name, tensor in tensors.items():
        kinds = {
            str(tensor.layout): tensor.layout is not torch.strided,
            f"on {tensor.device}": tensor.device.type != "cpu",
            "quantised": tensor.is_quantized,
            "nested": tensor.is_nested,
        }
        if any(kinds.values()):
            kind = next(kind for kind, applies in kinds.items() if applies)
            raise InputError(f"{source}: '{name}' is no ordinary tensor but {kind}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{source}: '{name}' shows more numbers than the file holds")
