"""Where and how numbers are computed: device, mixed precision, memory layout."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sceneparse.errors import InputError


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

    auto: bfloat16 on GPUs from compute capability 8.0 and on CPUs with AVX-512 bf16 or AMX, float16
    on older GPUs, float32 elsewhere.
    """
    if amp == "auto":
        return _fast_dtype(device)
    if amp == "fp16" and device.type == "cpu":
        raise InputError("train.amp: fp16 needs a GPU; use auto, bf16 or off")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[amp]


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float16
    if device.type != "cpu":
        return None
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if fast else None
