"""ONNX Runtime, an optional package, without its statistics."""

import os
from importlib import import_module
from typing import Any

from sceneparse.errors import not_installed


def load_onnxruntime(module: str = "onnxruntime") -> Any:  # noqa: ANN401 - an optional package
    """Import ONNX Runtime or a module of it; raises InputError if it is not installed.

    It would report its use to its makers, and write a number for that to the temporary folder,
    unless this variable forbids it before the first import.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module(module)
    except ImportError as error:
        raise not_installed("onnxruntime", "export") from error
