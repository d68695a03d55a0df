"""Where and how numbers are computed: device, mixed precision, memory layout."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from timeit import timeit

import torch
from torch import Tensor, nn

from sceneparse.distributed import any_process
from sceneparse.errors import InputError, unknown_name


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


def choose_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Translate "auto", "bf16", "fp16" or "off" into a type for autocast; None: plain float32.

    auto: bfloat16 on GPUs from compute capability 8.0 and on CPUs that are measured to be faster
    in it, float16 on older GPUs, float32 elsewhere; the same in all processes.
    """
    if amp == "auto":
        dtype = _fast_dtype(device)
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


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float16
    if device.type != "cpu":
        return None
    capabilities = torch.cpu.get_capabilities()
    known = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if known and _bfloat16_pays() else None


@functools.cache
def _bfloat16_pays() -> bool:
    """Whether a convolution's training step is clearly faster in bfloat16 than in float32.

    With AMX it is several times faster; the bf16 instructions of AVX-512 alone are half as fast as
    float32 on some processors and twice as fast on others.
    """
    steps = [_convolution_step(dtype) for dtype in (torch.float32, torch.bfloat16)]
    # In turns, so that other work on the machine slows both.
    seconds = [[timeit(step, number=1) for step in steps] for _ in range(7)]
    wide, narrow = (min(column) for column in zip(*seconds, strict=True))
    return bool(wide > 1.3 * narrow)


def _convolution_step(dtype: torch.dtype) -> Callable[[], None]:
    """Make a forward and backward pass of a 3x3 convolution, about 10 milliseconds of work."""
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False, dtype=dtype)
    conv.to(memory_format=torch.channels_last)
    x = torch.zeros(2, 128, 48, 48, dtype=dtype, requires_grad=True)
    x = x.contiguous(memory_format=torch.channels_last)
    return lambda: conv(x).sum().backward()
