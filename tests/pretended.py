"""A pretended GPU of a Mac: tensors that say they are on mps, with the limits that Metal has.

The values are those of tensors on the CPU. What fails or is wrong on a real one raises an error
here: float64, tensors of two devices in one operation, adaptive pooling to a grid that does not
divide the map, batch norms of maps that are not contiguous, and copies that do not wait.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

MPS = torch.device("mps", 0)
# What PyTorch itself takes these tensors for: not the CPU, so that copies to it are seen here, but
# a device whose gradients are computed without a driver.
_INSIDE = torch.device("lazy", 0)
# Operations that may read a tensor of the CPU and write one of the GPU.
_MIXED = ("aten.to.", "aten._to_copy.", "aten.copy_.", "aten._foreach_copy_.")


class OnMps(torch.Tensor):
    """A tensor on the pretended device; `values` holds its values, on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls: type[OnMps], values: Tensor) -> OnMps:
        if values.dtype == torch.float64:
            raise TypeError("a float64 tensor on mps, which has no float64")
        with torch.inference_mode(False):  # a view of a tensor of training is one too
            return torch.Tensor._make_wrapper_subclass(
                cls,
                values.size(),
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=_INSIDE,
            )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return MPS

    def tolist(self) -> Any:
        return self.values.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class PretendedMps(TorchDispatchMode):
    """Put tensors that are created on mps or moved to it there; `seen` counts operations on it."""

    seen: ClassVar[int] = 0

    def __enter__(self) -> PretendedMps:
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._before)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and put its results where the arguments or `device` say."""
    flat, structure = tree_flatten((args, kwargs))
    given = [value for value in flat if isinstance(value, OnMps)]
    target = next((value for value in flat if isinstance(value, torch.device)), None)
    created = target is not None and target.type in {"mps", _INSIDE.type}
    if not given and not created:
        return func(*args, **kwargs)
    PretendedMps.seen += 1
    _check_limits(func, flat, args, kwargs)
    inner = [value.values if isinstance(value, OnMps) else value for value in flat]
    if created:
        inner = [torch.device("cpu") if value is target else value for value in inner]
    inner_args, inner_kwargs = tree_unflatten(inner, structure)
    found = func(*inner_args, **inner_kwargs)
    if target is not None and not created:
        return found
    known = {id(value.values): value for value in given}
    return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else OnMps(x), found)


def _check_limits(func: Any, flat: list[Any], args: Any, kwargs: dict[str, Any]) -> None:
    """Raise TypeError, RuntimeError or AssertionError for what Metal cannot do."""
    others = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, OnMps) and x.dim()]
    if kwargs.get("dtype") == torch.float64:
        raise TypeError(f"{func}: a float64 tensor on mps, which has no float64")
    if others and not str(func).startswith(_MIXED):
        raise RuntimeError(f"{func}: one tensor is on mps, another on {others[0].device}")
    if kwargs.get("non_blocking"):
        raise AssertionError("a copy to or from mps that does not wait")
    if str(func).startswith(("aten.adaptive_avg_pool2d.", "aten._adaptive_avg_pool2d.")):
        sides = zip(args[0].shape[-2:], args[1], strict=True)
        if any(side % cells for side, cells in sides):
            raise RuntimeError("adaptive pooling of a map that the grid does not divide")
    # The map is the first argument, behind the gradient if there is one.
    if "batch_norm" in str(func) and not args["backward" in str(func)].is_contiguous():
        raise AssertionError(f"{func}: maps that are not contiguous")
