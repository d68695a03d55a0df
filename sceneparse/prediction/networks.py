"""What predictions are made with: a run, a checkpoint, or a file that was exported from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sceneparse.errors import InputError
from sceneparse.models.exported import OnnxNetwork, load_safetensors
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.runs.checkpoint import load_segmentation_model, resolve_checkpoint


def load_network(source: str | Path) -> SegmentationNetwork:
    """Load a run or checkpoint folder, or an exported file; raises InputError.

    A .pt2 file is refused: loading one runs code that the file names.
    """
    path = Path(source)
    if path.suffix == ".pt2":
        raise InputError(
            f"'{path}': .pt2 files are for other programs; use an ONNX file instead: "
            "sceneparse export RUN --format onnx"
        )
    return FILES.get(path.suffix, load_segmentation_model)(path)


def source_of(source: str | Path) -> Path:
    """Return the file or checkpoint folder that `load_network` reads for a source."""
    path = Path(source)
    return path if path.suffix in FILES else resolve_checkpoint(path)


FILES: dict[str, Callable[[Path], SegmentationNetwork]] = {
    ".onnx": OnnxNetwork,
    ".safetensors": load_safetensors,
}
