"""Networks as files that run without PyTorch's training code, checked against the model.

An exported graph takes images of any number and size. Strips are pooled by means, grids by matrices
made for each size (`layers.pooling.pool_to_grid`), so that nothing of the traced size remains.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from sceneparse.errors import InputError
from sceneparse.inference.prepare import prepare_for_inference
from sceneparse.layers.blocks import resize
from sceneparse.models.exported import META_KEY, OnnxNetwork, load_safetensors
from sceneparse.models.segmentation import SegmentationModel

# Sizes (B, H, W) that no graph is traced at: odd ones, small ones, one high, one wide.
UNSEEN_SIZES = ((1, 97, 161), (3, 200, 133), (1, 301, 77))
_TRACED_SIZE = (2, 129, 193)
_OPSET = 18
# Of the largest logit.
_TOLERANCE = 1e-3
# Labels may differ where two classes are equally likely up to rounding.
_LABEL_TOLERANCE = 1e-3


class ExportMismatchError(RuntimeError):
    """An exported file computes something else than its model; the file is gone."""


class ExportedGraph(nn.Module):
    """What is exported: the network, with normalisation before it and argmax behind it if asked.

    `normalize`: images are RGB values 0..255 as float32, else normalised ones. `argmax`: labels
    (B, H, W) of whole images, padded as the protocol "whole" does, else logits (B, K, h, w).
    Shape: (B, 3, H, W) -> labels or logits
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: SegmentationModel, *, normalize: bool, argmax: bool) -> None:
        super().__init__()
        self.model = model
        self.argmax = argmax
        self.stride = model.output_stride
        self.normalize = normalize
        # Images are bytes' values, mean and deviation of values in 0..1.
        for name, values in (("mean", model.mean), ("std", model.std)) if normalize else ():
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits or labels."""
        if self.normalize:
            images = (images - self.mean) / self.std
        if not self.argmax:
            logits: Tensor = self.model(images, upsample=False)["out"]
            return logits
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, (1 - width) % self.stride, 0, (1 - height) % self.stride))
        logits = self.model(padded, upsample=False)["out"]
        labels = resize(logits, padded.shape[-2:]).argmax(dim=1)
        return labels[:, :height, :width]


def export_onnx(
    model: SegmentationModel,
    path: Path,
    *,
    normalize: bool = False,
    argmax: bool = False,
    fixed: tuple[int, int] | None = None,
) -> dict[str, float]:
    """Write a model as ONNX, with all it knows of itself, and compare both.

    Batch norms are folded. With `fixed` the graph takes one image of that height and width only,
    which some runtimes need. Returns the difference at each size (B, H, W) that was compared: of
    logits the largest, relative to the largest logit; of labels the share of pixels. Raises
    ExportMismatchError where they differ, and removes the file.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    graph = ExportedGraph(prepare_for_inference(model), normalize=normalize, argmax=argmax).eval()
    batch, height, width = _TRACED_SIZE if fixed is None else (1, *fixed)
    images = torch.rand(batch, 3, height, width) * 255
    free = {"images": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    # The exporter prints its progress.
    with redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            opset_version=_OPSET,
            dynamic_shapes=free if fixed is None else None,
            input_names=["images"],
            output_names=["labels" if argmax else "logits"],
        )
    if program is None:  # for the type checker: with dynamo there is a program
        raise ExportMismatchError("the ONNX exporter returned nothing")
    facts = {"normalize": normalize, "argmax": argmax, "output_stride": model.output_stride}
    text = json.dumps({**model.meta, "export": facts})
    program.model.metadata_props[META_KEY] = text
    program.save(str(path))
    sizes = UNSEEN_SIZES if fixed is None else ((1, *fixed),)
    return _compare(graph, lambda: OnnxNetwork(path).run, path, sizes)


def export_safetensors(model: SegmentationModel, path: Path) -> dict[str, float]:
    """Write weights and all that the model knows of itself as one file; compare as export_onnx."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {META_KEY: json.dumps(model.meta)})
    graph = ExportedGraph(model.eval(), normalize=False, argmax=False)
    return _compare(graph, lambda: _logits_of(load_safetensors(path)), path, UNSEEN_SIZES)


def _logits_of(model: SegmentationModel) -> Callable[[Tensor], Tensor]:
    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        logits: Tensor = model(images, upsample=False)["out"]
        return logits

    return run


def _require(*names: str) -> None:
    from importlib.util import find_spec  # noqa: PLC0415 - beside its only use

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise InputError(f"{missing[0]} is not installed; run: pip install 'sceneparse[export]'")


def _compare(
    graph: ExportedGraph,
    load: Callable[[], Callable[[Tensor], Tensor]],
    path: Path,
    sizes: tuple[tuple[int, ...], ...],
) -> dict[str, float]:
    """Compare a written file with the graph it was made from; remove it where they differ."""
    found: dict[str, float] = {}
    try:
        run, generator = load(), torch.Generator().manual_seed(0)
        for batch, height, width in sizes:
            images = torch.rand(batch, 3, height, width, generator=generator)
            images = images * 255 if graph.normalize else images * 4 - 2
            with torch.inference_mode():
                expected = graph(images)
            found[f"{batch}x{height}x{width}"] = _difference(expected, run(images), graph.argmax)
    except Exception as error:
        path.unlink(missing_ok=True)
        raise ExportMismatchError(f"{path} does not run and was removed: {error}") from error
    limit = _LABEL_TOLERANCE if graph.argmax else _TOLERANCE
    if not all(difference <= limit for difference in found.values()):
        path.unlink(missing_ok=True)
        raise ExportMismatchError(
            f"{path} computes something else than its model and was removed: differences "
            + ", ".join(f"{value:.2g} at {size}" for size, value in found.items())
        )
    return found


def _difference(expected: Tensor, found: Tensor, labels: bool) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if labels:
        return (expected != found).double().mean().item()
    scale = expected.abs().max().clamp(min=1e-6)
    return ((expected - found).abs().max() / scale).item()
