"""Write a model as an ONNX, .pt2 or safetensors file, with its description.

Each function compares the file with the model and returns the differences, a line per size. Each
raises InputError if the model is not from a training run or a package is missing, and
ExportMismatchError if the file computes something else than the model; then the file is removed.
"""

import io
import json
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from sceneparse.errors import InputError, not_installed, reason_of
from sceneparse.export.graph import ExportedGraph, Size, as_taken, example
from sceneparse.export.quantization import quantize
from sceneparse.export.verification import (
    UNSEEN_SIZES,
    CheckedSize,
    Run,
    Sizes,
    compare,
    compare_labels,
    written_aside,
)
from sceneparse.inference.networks import MIN_AGREEMENT, OnnxNetwork, load_network
from sceneparse.models.origin import recorded_origin
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.stored import META_KEY
from sceneparse.runtime.progress import Progress

logger = logging.getLogger(__name__)

_OPSET = 18
_TRACING = "tracing the network, which takes seconds for small ones and minutes for large ones"
# Processor time in seconds: SPNet-50 takes 15, a small Swin Transformer 145, because it pads every
# stage to whole windows and torch simplifies long formulas of the image's size.
_MAX_TRACING = 600
# Number of calibration images that are kept for the comparison.
COMPARED = 4


def export_onnx(
    model: SegmentationModel,
    path: Path,
    *,
    normalize: bool = False,
    argmax: bool = False,
    fixed: Size | None = None,
    int8_images: Sequence[NDArray[np.uint8]] | None = None,
    float_layers: int | None = None,
) -> list[str]:
    """Write an ONNX file for any number of images of any size, or for one image of size `fixed`.

    `normalize`, `argmax`: see ExportedGraph. `int8_images`: RGB images (H, W, 3) to calibrate an
    int8 file with; the last four are used for the comparison only. `float_layers`: see quantize.
    """
    graph, meta = _prepare(model, normalize, argmax)
    with written_aside(path) as aside:
        if int8_images is None:
            return _write_onnx(graph, aside, path, fixed, meta)
        if len(int8_images) < 2 * COMPARED:
            raise InputError(f"int8 needs {2 * COMPARED} images or more, got {len(int8_images)}")
        taken = (as_taken(graph, image, fixed) for image in int8_images[:-COMPARED])
        others = [as_taken(graph, image, fixed) for image in int8_images[-COMPARED:]]
        meta["export"]["int8"] = True
        _write_onnx(graph, aside, path, fixed, meta)
        count = len(int8_images) - COMPARED
        with _quiet(), Progress("calibrate int8", count, "images") as progress:
            quantize(aside, progress.over(taken), float_layers)
        found = compare_labels(
            graph, lambda: OnnxNetwork(aside).run, path, others, own_size_only=fixed is not None
        )
        _store_checked_sizes(aside, meta, found)
        return _lines_of(found)


def export_pt2(
    model: SegmentationModel, path: Path, *, normalize: bool = False, argmax: bool = False
) -> list[str]:
    """Write a .pt2 file, which `torch.export.load` loads, for images of any number and size.

    The file is for other programs. Loading a .pt2 file runs code that the file names, so this
    package loads only the one that it has just written, to compare it with the model.
    """
    graph, meta = _prepare(model, normalize, argmax)
    images, free = example(graph, None)
    logger.info(_TRACING)
    with written_aside(path) as aside, _quiet():
        with _refusing_untraceable():
            program = torch.export.export(graph, (images,), dynamic_shapes=free)
        # The guards reject sizes that need no padding, or all others; both are compared below.
        program._guards_code = []
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={META_KEY: json.dumps(meta)})
        aside.write_bytes(content.getvalue())
        return compare(graph, lambda: torch.export.load(aside).module(), path, UNSEEN_SIZES)


def export_safetensors(model: SegmentationModel, path: Path) -> list[str]:
    """Write weights and description, from which this package rebuilds the model."""
    graph, meta = _prepare(model, normalize=False, argmax=False)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}

    def load() -> Run:
        loaded = load_network(aside)
        return lambda images: loaded(images, upsample=False)["out"]

    with written_aside(path) as aside:
        aside.write_bytes(save(tensors, {META_KEY: json.dumps(meta)}))
        return compare(graph, load, path, UNSEEN_SIZES)


def _prepare(
    model: SegmentationModel, normalize: bool, argmax: bool
) -> tuple[ExportedGraph, dict[str, Any]]:
    """Return the graph to export and the description to store in the file."""
    _ = model.classes, model.colors  # raises InputError if the model is not from a training run
    graph = ExportedGraph(model, normalize=normalize, argmax=argmax)
    facts = {
        "normalize": normalize,
        "argmax": argmax,
        "output_stride": graph.stride,
        "size_multiple": 1 if argmax else model.size_multiple,  # labels come from padded images
        "min_size": model.min_size,
    }
    origin = recorded_origin(model.meta, "not recorded")
    meta = {**model.meta, "pretrained": origin, "export": facts}
    if argmax:  # labels have no confidence that could be calibrated
        meta.pop("calibration", None)
    return graph, meta


def _write_onnx(
    graph: ExportedGraph, aside: Path, path: Path, fixed: Size | None, meta: dict[str, Any]
) -> list[str]:
    """Write an ONNX file to `aside` and compare it; `path` is its name in errors."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise not_installed(name, "export")
    images, free = example(graph, fixed)
    traced = _refusing_untraceable() if fixed is None else nullcontext()
    logger.info(_TRACING)
    with traced, _quiet(), redirect_stdout(io.StringIO()):  # the exporter prints its progress
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            opset_version=_OPSET,
            dynamic_shapes=free,
            input_names=["images"],
            output_names=["labels" if graph.argmax else "logits"],
        )
    assert program is not None  # None is returned by the older exporter
    program.model.metadata_props[META_KEY] = json.dumps(meta)
    program.save(str(aside))
    sizes: Sizes = UNSEEN_SIZES if fixed is None else [(1, *fixed)]
    return compare(graph, lambda: OnnxNetwork(aside).run, path, sizes)


class _TooSlowError(BaseException):
    """Tracing takes too long. Not an Exception, because torch catches those and tries again."""


@contextmanager
def _refusing_untraceable() -> Iterator[None]:
    """Raise InputError if a network cannot be traced for all sizes, or not within ten minutes."""
    try:
        with _time_limit():
            yield
    except (Exception, _TooSlowError) as error:  # some networks work at one size only
        raise InputError(
            f"torch cannot export this network for images of any size ({reason_of(error)}); "
            "give --format onnx --fixed H W"
        ) from error


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise _TooSlowError in the main thread; other threads and Windows have no such signal."""

    def stop(*_: object) -> None:
        raise _TooSlowError(f"tracing took more than {_MAX_TRACING} s")

    if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
        earlier = signal.signal(signal.SIGVTALRM, stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, _MAX_TRACING)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, earlier)
    else:
        yield


def _store_checked_sizes(path: Path, meta: dict[str, Any], found: Sequence[CheckedSize]) -> None:
    """Add to the description of an int8 file at which sizes its labels were compared."""
    import onnx  # noqa: PLC0415 - an optional package

    meta["export"]["checked"] = [[size.height, size.width, size.equal] for size in found]
    file = onnx.load(path)
    (entry,) = (entry for entry in file.metadata_props if entry.key == META_KEY)
    entry.value = json.dumps(meta)
    onnx.save(file, path)


def _lines_of(found: Sequence[CheckedSize]) -> list[str]:
    """Return a line per size, and one about sizes at which too few labels are equal."""
    lines = [str(size) for size in found]
    if few := [size for size in found if not size.agrees]:
        lines.append(
            f"at {few[0].height} x {few[0].width} and below, fewer than {MIN_AGREEMENT:.0%} are "
            "equal: prediction of such images warns; use a float32 file for them"
        )
    return lines


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of libraries; errors are still raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
