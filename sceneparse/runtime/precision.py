"""Where and how numbers are computed: device, mixed precision, memory layout."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from timeit import timeit

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from sceneparse.errors import InputError, unknown_name
from sceneparse.runtime.distributed import any_process


@dataclass(frozen=True)
class Compute:
    """A device, the type of mixed precision there (None: float32), and the layout of images."""

    device: torch.device
    dtype: torch.dtype | None = None
    channels_last: bool = True

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in `dtype` where that is safe."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def name(self) -> str:
        """The type numbers are computed in, e.g. float32."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place_model(self, model: nn.Module) -> None:
        """Move a model to the device, in its layout."""
        model.to(self.device).to(memory_format=self.memory_format)

    def place_images(self, images: Tensor) -> Tensor:
        """Move images (B, 3, H, W) to the device, in its layout."""
        moved = images.to(self.device, non_blocking=True)
        return moved.contiguous(memory_format=self.memory_format)


def choose_dtype(
    amp: str, device: torch.device, work: Callable[[], object] | None = None
) -> torch.dtype | None:
    """Translate "auto", "bf16", "fp16" or "off" into a type for autocast; None: plain float32.

    auto: bfloat16 on GPUs from compute capability 8.0 and on CPUs where `work` is measured to be
    faster in it, float16 on older GPUs, float32 elsewhere; the same in all processes. None: a wide
    convolution stands for the work.
    """
    if amp == "auto":
        dtype = _fast_dtype(device, work or _convolution_step)
        return None if any_process(dtype is None, device) else dtype
    if amp == "fp16" and device.type == "cpu":
        raise InputError("amp: fp16 needs a GPU; use auto, bf16 or off")
    if amp not in _DTYPES:
        raise unknown_name("precision", amp, ["auto", *_DTYPES])
    return _DTYPES[amp]


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


def amp_name(dtype: torch.dtype | None) -> str:
    """Name the setting that stands for a type: "bf16", "fp16" or "off"."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


def _fast_dtype(device: torch.device, work: Callable[[], object]) -> torch.dtype | None:
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float16
    if device.type != "cpu":
        return None
    capabilities = torch.cpu.get_capabilities()
    known = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if known and _bfloat16_pays(work) else None


def _bfloat16_pays(work: Callable[[], object]) -> bool:
    """Whether some work is clearly faster in bfloat16 than in float32.

    With AMX it is several times faster; the bf16 instructions of AVX-512 alone are half as fast as
    float32 on some processors and twice as fast on others, and slower for narrow networks anyway.
    """

    def seconds(dtype: torch.dtype) -> float:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            return timeit(work, number=1)

    # In turns, so that other work on the machine slows both; the first ones prepare kernels.
    turns = [[seconds(torch.float32), seconds(torch.bfloat16)] for _ in range(5)]
    wide, narrow = (min(column) for column in zip(*turns, strict=True))
    return bool(wide > 1.3 * narrow)


def training_step(
    model: nn.Module, forward: Callable[[nn.Module, Tensor], object], shape: tuple[int, ...]
) -> Callable[[], None]:
    """Make a forward and backward pass of a copy of a network on images (B, 3, H, W) of zeros.

    `forward` gives a tensor, or several in a tuple or dict. The network itself stays as it is.
    """
    copied = copy.deepcopy(model).train()
    images = torch.zeros(shape).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        outputs, _ = tree_flatten(forward(copied, images))
        sum(output.float().sum() for output in outputs).backward()

    return step


def _convolution_step() -> None:
    """Compute forward and backward pass of a 3x3 convolution, about 10 milliseconds of work."""
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.zeros(2, 128, 48, 48, requires_grad=True)
    conv(x.contiguous(memory_format=torch.channels_last)).sum().backward()
