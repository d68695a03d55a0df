"""Measure the limits of this machine: products of matrices, memory copies, JPEG decoding."""

from __future__ import annotations

import io
from datetime import date
from timeit import timeit

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rows import Work
from sceneparse.data.synthetic import render_scene
from sceneparse.runtime.versions import describe_device, version_rows

# Large enough for the full rate; a product takes about a hundredth of a second.
_MATRIX, _MATRIX_ON_GPU = 2048, 8192
_COPIED_BYTES = 2**28
_REPEATS = 7
# Processors without instructions for a type take many seconds for one product.
_MAX_SECONDS = 2.0


def describe_machine() -> str:
    """Describe the machine, installed versions, the date, and the best rates measured here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    versions = version_rows()
    installed = ", ".join(f"{name} {versions[name]}" for name in ("sceneparse", "torch", "python"))
    rates = {f"GFLOP/s in {name}": gflops(name, device) for name in MATRIX_TYPES}
    rates["GB/s of memory copied"] = copy_rate(device)
    rates["megapixels/s of JPEG decoded by one thread"] = decode_rate()
    at_most = ", ".join(f"{rate:.0f} {unit}" for unit, rate in rates.items())
    return f"{describe_device(device)}; {installed}; {date.today().isoformat()}\nat most {at_most}"


def gflops(name: str, device: torch.device) -> float:
    """Measure the rate of matrix products of a type: float32, bfloat16 or int8."""
    operations = 2 * _size(device) ** 3
    return operations / 1e9 / _best(matrix_products(name, device, operations))


def matrix_products(name: str, device: torch.device, operations: float) -> Work:
    """Return work of about `operations` in square matrix products; a multiply-add counts as two.

    Different libraries compute convolutions and matrix products, and one of them may be far from
    the processor's limit; the faster one is the machine's rate.
    """
    size = _size(device)
    count = max(1, round(operations / (2 * size**3)))
    multiply = min(_ways_to_multiply(name, size, device), key=_best)

    @torch.inference_mode()
    def work() -> None:
        for _ in range(count):
            multiply()

    return work


def _ways_to_multiply(name: str, size: int, device: torch.device) -> list[Work]:
    # Seven bits: sums of products of eight bits overflow on processors without VNNI.
    a, b = (torch.randint(-63, 64, (size, size), device=device) for _ in range(2))
    a, b = a.to(MATRIX_TYPES[name]), b.to(MATRIX_TYPES[name])
    if name == "int8":
        return [lambda: finish(device, torch._int_mm(a, b)), *_as_quantized_layer(a, b)]
    # In channels_last layout this is the matrix itself.
    image = a.view(1, 1, size, size).permute(0, 3, 1, 2)
    kernels = b[:, :, None, None]
    return [
        lambda: finish(device, a @ b),
        lambda: finish(device, F.conv2d(image, kernels)),
    ]


def _as_quantized_layer(a: Tensor, b: Tensor) -> list[Work]:
    """Multiply as a quantized linear layer on a CPU, with or without instructions for int8."""
    if a.is_cuda or not torch.backends.mkldnn.is_available():
        return []
    library = torch.ops.onednn
    zero = 64  # the value of zero in the unsigned inputs
    inputs = (a + zero).to(torch.uint8)
    weight = library.qlinear_prepack(b.t().contiguous(), inputs.shape)
    scales, zeros = torch.ones(len(b)), torch.zeros(len(b), dtype=torch.int64)
    rest = None, 1.0, 0, torch.float32, "none", (), ""
    return [lambda: library.qlinear_pointwise(inputs, 1.0, zero, weight, scales, zeros, *rest)]


MATRIX_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def finish(device: torch.device, _: object = None) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_rate(device: torch.device) -> float:
    """Measure a large copy in GB/s, counting bytes read and bytes written."""
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / 1e9 / _best(lambda: finish(device, target.copy_(source)))


def decode_rate() -> float:
    """Measure OpenCV's decoding of a JPEG from memory on one thread, in megapixels a second."""
    image, _ = render_scene(512, 1024, seed=0, index=0)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    data = np.frombuffer(file.getvalue(), np.uint8)
    return image[..., 0].size / 1e6 / _best(lambda: cv2.imdecode(data, 1))


def _size(device: torch.device) -> int:
    return _MATRIX_ON_GPU if device.type == "cuda" else _MATRIX


def _best(work: Work) -> float:
    """Return the best time of several repeats; slow work is repeated less."""
    seconds = [timeit(work, number=1)]
    while len(seconds) <= _REPEATS and sum(seconds) < _MAX_SECONDS:
        seconds.append(timeit(work, number=1))
    return min(seconds)
