"""Int8 quantisation of ONNX graphs, calibrated on images.

Post-training static quantisation (Jacob et al., CVPR 2018): activations are unsigned bytes over
the range seen on the images, weights signed bytes with a scale for each output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import Tensor

# Name of the graph's input.
_INPUT = "images"
# Layers with fewer channels do little of the work and lose the most accuracy. Depthwise
# convolutions count as one channel, which is what each of their filters reads.
_NARROW = 32


def quantize(
    path: Path, images: Iterable[Tensor], advance: Callable[[int], None], float_layers: int | None
) -> None:
    """Replace a float32 ONNX file by an int8 one, calibrated on inputs of its graph (1, 3, H, W).

    `advance` is called with the number of images just read. The first `float_layers` convolutions
    stay in float32; None: those before the first that reads and writes 32 channels or more.
    """
    # Packages of an extra.
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives ONNX Runtime the images one by one."""

        def __init__(self) -> None:
            self._rest: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, object] | None:
            """Return the next image, or None after the last."""
            image = next(self._rest, None)
            if image is None:
                return None
            advance(1)
            return {_INPUT: image.numpy()}

    channels = _channels(onnx.load(path).graph)
    if float_layers is None:
        float_layers = len(list(takewhile(lambda count: count < _NARROW, channels.values())))
    quantize_static(
        str(path),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        # Unsigned times signed is what processors multiply (VNNI); signed times signed is slower.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(channels)[:float_layers],
        # The whole range: clipping it (percentiles) loses more than it gains.
        calibrate_method=CalibrationMethod.MinMax,
    )


def _channels(graph: Any) -> dict[str, int]:  # noqa: ANN401 - onnx is imported late
    """Return by convolution the smaller of its input channels (per group) and output channels."""
    shapes = {weight.name: weight.dims for weight in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return {node.name: min(shapes[node.input[1]][:2]) for node in convolutions}
