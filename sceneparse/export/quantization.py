"""Quantize ONNX graphs to int8, calibrated on images.

Post-training static quantisation (Jacob et al., CVPR 2018): activations are unsigned bytes over
the range found on the images, weights signed bytes with a scale per output channel.
"""

from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.data.datasets import classes_unless_named, create_dataset, spread
from sceneparse.data.reading import read_image
from sceneparse.data.resizing import Resize, resize_image
from sceneparse.runtime.onnx import load_onnxruntime

# Layers with fewer channels cost little time and lose the most accuracy. Depthwise convolutions
# count as one channel, because each of their filters reads one.
_MIN_CHANNELS = 32


def calibration_images(
    root: str | Path, split: str, meta: Mapping[str, Any], count: int
) -> list[NDArray[np.uint8]]:
    """Read at most `count` images (H, W, 3), evenly spread over a split, as the network sees them.

    The data folder has the layout of the model's dataset, which `meta` names, as well as the bit
    depth and data.resize of the training. Raises InputError.
    """
    data = meta.get("data", {})
    name, resize = data.get("dataset", "folder"), Resize.of(data.get("resize"))
    classes = classes_unless_named(name, root, meta["classes"])
    pairs = create_dataset(name, root, split, classes, complete=False).pairs
    chosen = [pairs[index].image for index in spread(len(pairs), count)]
    images = (read_image(path, data.get("bit_depth")) for path in chosen)
    return [x if resize is None else resize_image(x, resize.size(*x.shape[:2])) for x in images]


def quantize(path: Path, images: Iterable[Tensor], float_layers: int | None) -> None:
    """Replace a float32 ONNX file by an int8 one, calibrated on inputs of its graph (1, 3, H, W).

    The first `float_layers` convolutions stay in float32; None: those before the first that reads
    and writes 32 channels or more.
    """
    import onnx  # noqa: PLC0415 - an optional package

    quantization = load_onnxruntime("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """Gives ONNX Runtime the images one by one."""

        def get_next(self) -> dict[str, object] | None:
            """Return the next image, or None after the last."""
            image = next(remaining, None)
            return None if image is None else {"images": image.numpy()}

    remaining = iter(images)
    graph = onnx.load(path).graph
    shapes = {weight.name: weight.dims for weight in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    # The smaller of input channels (per group) and output channels.
    channels = {node.name: min(shapes[node.input[1]][:2]) for node in convolutions}
    if float_layers is None:
        float_layers = len(list(takewhile(lambda count: count < _MIN_CHANNELS, channels.values())))
    quantization.quantize_static(
        str(path),
        str(path),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # Processors multiply unsigned by signed bytes (VNNI); signed by signed is slower.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[*list(channels)[:float_layers], *_products_with_sizes(graph)],
        # The whole range: clipping it (percentiles) loses more accuracy than it gains.
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )


def _products_with_sizes(graph: Any) -> list[str]:  # noqa: ANN401 - of an optional package
    """Return the names of products of maps with matrices that depend on the image's size alone.

    They pool maps to a grid. The weights of smaller images are larger than the range that was found
    on the images of the calibration, and would be clipped.
    """
    of_pixels, fixed = {graph.input[0].name}, {weight.name for weight in graph.initializer}
    names = []
    for node in graph.node:  # sorted: each after those that it reads
        inputs = set(node.input)
        if node.op_type == "MatMul" and inputs - of_pixels - fixed:
            names.append(node.name)
        if node.op_type != "Shape" and inputs & of_pixels:
            of_pixels.update(node.output)
    return names
