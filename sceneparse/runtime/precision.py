"""The device, the precision and the memory layout of computations."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sceneparse.errors import InputError, unknown_name
from sceneparse.runtime.distributed import any_process


@dataclass(frozen=True)
class Compute:
    """A device, its type of mixed precision (None: float32), and the layout of images."""

    device: torch.device
    dtype: torch.dtype | None = None
    channels_last: bool = True

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which operations run in `dtype` if that is safe."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return a scaler of losses that works in float16 and does nothing in other types."""
        return torch.amp.GradScaler(enabled=self.dtype == torch.float16)

    @property
    def name(self) -> str:
        """The name of the precision, e.g. float32."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place_model(self, model: nn.Module) -> None:
        """Move a model to the device, in this layout."""
        model.to(self.device).to(memory_format=self.memory_format)

    def place_images(self, images: Tensor) -> Tensor:
        """Move images (B, 3, H, W) to the device, in this layout."""
        moved = images.to(self.device, non_blocking=True)
        return moved.contiguous(memory_format=self.memory_format)


def choose_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the type for autocast of "auto" or a name of PRECISIONS; None: plain float32.

    "auto" follows `auto_dtype`. Raises InputError for an unknown name, and for fp16 on a CPU.
    """
    if amp == "auto":
        return auto_dtype(device)[0]
    if amp == "fp16" and device.type == "cpu":
        raise InputError("amp: fp16 needs a GPU; use auto, bf16 or off")
    if amp not in PRECISIONS:
        raise unknown_name("precision", amp, ["auto", *PRECISIONS])
    return PRECISIONS[amp]


def auto_dtype(device: torch.device) -> tuple[torch.dtype | None, str]:
    """Return the type that "auto" chooses (None: float32), and the reason.

    It depends on the hardware alone, and is the same in all processes. On CPUs, bfloat16 is several
    times faster with AMX. With AVX-512 alone it is half as fast as float32 on some processors and
    twice as fast on others, so "auto" does not choose it.
    """
    dtype, reason = _fastest_dtype(device)
    (is_plain,) = any_process(device, dtype is None)
    if is_plain and dtype is not None:
        return None, "the device of another process has no faster type"
    return dtype, reason


def _fastest_dtype(device: torch.device) -> tuple[torch.dtype | None, str]:
    """Return the type that is fastest on this process's device, and the reason."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        dtype = torch.bfloat16 if major >= 8 else torch.float16
        return dtype, f"the GPU has compute capability {major}.{minor}"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False):
        return torch.bfloat16, "the CPU has AMX"
    return None, "the CPU has no AMX"


PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


def amp_name(dtype: torch.dtype | None) -> str:
    """Return the name of a type in PRECISIONS."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)
