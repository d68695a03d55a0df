"""What predictions are made with: a run, a checkpoint, or a file that was exported from one."""

from __future__ import annotations

from pathlib import Path

from sceneparse.checkpoint import load_segmentation_model, resolve_checkpoint
from sceneparse.errors import InputError
from sceneparse.models.exported import OnnxNetwork, load_safetensors
from sceneparse.models.segmentation import SegmentationNetwork


def load_network(source: str | Path) -> SegmentationNetwork:
    """Load a run or checkpoint folder, or a .onnx or .safetensors file of tools/export.py.

    Raises InputError where it is damaged, or a graph without logits of normalised images.
    """
    path = Path(source)
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    if path.suffix != ".onnx":
        return load_segmentation_model(path)
    network = OnnxNetwork(path)
    inside = [name for name in ("normalize", "argmax") if network.meta["export"][name]]
    if inside:
        raise InputError(
            f"'{path}' was exported with --{inside[0]}, for use elsewhere; export it without to "
            "predict or evaluate here"
        )
    return network


def source_of(source: str | Path) -> Path:
    """Return the file or checkpoint folder that `load_network` reads for a source."""
    path = Path(source)
    return path if path.suffix in {".safetensors", ".onnx"} else resolve_checkpoint(path)
