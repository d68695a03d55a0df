"""Measure SPNet on one image: prepared for inference, plain float32, limits of the machine."""

from __future__ import annotations

import logging
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.limits import finish, matrix_products
from benchmarks.plain_spnet import in_plain_form
from benchmarks.rows import Row, Work, in_turns, time_row
from sceneparse.inference.networks import OnnxNetwork
from sceneparse.inference.prepare import prepare_for_inference
from sceneparse.models import create_segmentation_model
from sceneparse.models.costs import count_multiply_adds
from sceneparse.models.segmentation import SegmentationModel

CLASSES = 19
# The description of a trained model that exported files contain.
_DESCRIPTION = {
    "classes": [f"class {k}" for k in range(CLASSES)],
    "colors": [[k, k, k] for k in range(CLASSES)],
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
_ON_CPU = ("resnet50", (512, 512))
_ON_GPU = ("resnet101", (1024, 2048))
_SHORT = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}


@torch.inference_mode()
def measure() -> list[Row]:
    """Time SPNet-50 at 512x512 on the CPU, or SPNet-101 at 1024x2048 on a GPU, all in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone, size = _ON_GPU if device.type == "cuda" else _ON_CPU
    torch.manual_seed(0)
    model = create_segmentation_model("strip_pooling", backbone, CLASSES, aux=False)
    model.eval().to(device)
    images = torch.randn(1, 3, *size, device=device)
    works = _ours(model, images)
    operations = 2 * count_multiply_adds(model, tuple(images.shape), upsample=False)
    limited = {short: name for name, short in _SHORT.items() if short in works}
    products = {
        f"{short}_matrix_rate": matrix_products(name, device, operations)
        for short, name in limited.items()
    }
    plain = _forward(in_plain_form(model), images)
    seconds = in_turns({"plain": plain, **works, **products}, repeats=5)
    against_plain = [time_row(f"infer_{name}", seconds[name], seconds["plain"]) for name in works]
    # Products of matrices have as many operations; the ratio is the share of the machine's rate.
    against_limit = [
        time_row(f"infer_{name}_of_matrix_rate", seconds[name], seconds[f"{name}_matrix_rate"])
        for name in limited
    ]
    return [*against_plain, *against_limit]


def _ours(model: SegmentationModel, images: Tensor) -> dict[str, Work]:
    """Return the ways to run a network: per type, compiled on a GPU, by ONNX Runtime."""
    images_last = images.contiguous(memory_format=torch.channels_last)
    works = {
        _SHORT[name]: _forward(prepare_for_inference(model, dtype=name), images_last)
        for name in ("float32", "bfloat16")
    }
    if images.device.type == "cuda":
        compiled = prepare_for_inference(model, dtype="bfloat16", compile=True)
        return {**works, "bf16_compiled": _forward(compiled, images_last)}
    if all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder, f"{name}.onnx") for name in ("onnx_fp32", "int8")}
            export(model, images, *files.values())
            works |= {name: _forward(OnnxNetwork(path), images) for name, path in files.items()}
    return works


def export(model: SegmentationModel, images: Tensor, path: Path, int8_path: Path) -> None:
    """Export a network of CLASSES classes as `sceneparse export` does, in float32 and in int8.

    int8 is calibrated on the images themselves. That suffices for speed; accuracy in int8 needs
    trained networks and real images.
    """
    from sceneparse.export import export_onnx
    from sceneparse.export.quantization import quantize

    model.meta |= _DESCRIPTION
    export_onnx(model, path)
    shutil.copy(path, int8_path)
    logging.disable(logging.WARNING)  # hints of ONNX Runtime
    try:
        quantize(int8_path, [images], None)
    finally:
        logging.disable(logging.NOTSET)


def _forward(network: nn.Module, images: Tensor) -> Work:
    return lambda: finish(images.device, network(images, upsample=False))
