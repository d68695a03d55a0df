"""The precision and the memory layout of computations on a device."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sceneparse.errors import InputError, unknown_name
from sceneparse.runtime.devices import counting_device, lack_of_type
from sceneparse.runtime.distributed import any_process


@dataclass(frozen=True)
class Compute:
    """A device, its type of mixed precision (None: float32), and the layout of images.

    `channels_last` has no effect on mps, where gradients of such maps can be wrong (PyTorch issues
    175189 and 107214).
    """

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
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @property
    def counts_on(self) -> torch.device:
        """Where counts and sums in float64 are kept, see counting_device."""
        return counting_device(self.device)

    @property
    def name(self) -> str:
        """The name of the precision, e.g. float32."""
        return str(self.dtype or torch.float32).removeprefix("torch.")

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images and weights."""
        is_contiguous = not self.channels_last or self.device.type == "mps"
        return torch.contiguous_format if is_contiguous else torch.channels_last

    def place_model(self, model: nn.Module) -> None:
        """Move a model to the device, in this layout."""
        model.to(self.device).to(memory_format=self.memory_format)
        if self.device.type == "mps":
            _keep_contiguous(model)

    def place(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device; only CUDA lets the program go on meanwhile.

        On mps the copy could read memory that is already used for something else (PyTorch issue
        189690).
        """
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    def place_images(self, images: Tensor) -> Tensor:
        """Move images (B, 3, H, W) to the device, in this layout."""
        return self.arrange(self.place(images))

    def arrange(self, images: Tensor) -> Tensor:
        """Put images into this layout."""
        return images.contiguous(memory_format=self.memory_format)


def _keep_contiguous(model: nn.Module) -> None:
    """Give every convolution, batch norm and pooling contiguous maps.

    Layers before them, such as layer norms, can turn the axes of a map.
    """
    for module in model.modules():
        known = _contiguous in module._forward_pre_hooks.values()
        if isinstance(module, _LAYOUT_MATTERS) and not known:
            module.register_forward_pre_hook(_contiguous)


def _contiguous(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in arguments)


_LAYOUT_MATTERS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.modules.batchnorm._BatchNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)


def choose_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the type for autocast of "auto" or a name of PRECISIONS; None: plain float32.

    "auto" follows `auto_dtype`. Raises InputError for an unknown name, and for a type that the
    device lacks: fp16 on a CPU, bf16 on mps before macOS 14.
    """
    if amp == "auto":
        return auto_dtype(device)[0]
    if amp not in PRECISIONS:
        raise unknown_name("precision", amp, ["auto", *PRECISIONS])
    if reason := lack_of_type(PRECISIONS[amp], device):
        others = " or ".join(
            name for name, dtype in PRECISIONS.items() if lack_of_type(dtype, device) is None
        )
        raise InputError(f"amp: {amp} {reason}; use auto, {others}")
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
    if device.type == "cpu" and _has_amx():
        return torch.bfloat16, "the CPU has AMX"
    if device.type == "mps":
        return None, "on mps, other types must be asked for by name"
    return None, "the CPU has no AMX"


def _has_amx() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.cpu._is_amx_tile_supported()  # torch 2.10


PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


def amp_name(dtype: torch.dtype | None) -> str:
    """Return the name of a type in PRECISIONS."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)
