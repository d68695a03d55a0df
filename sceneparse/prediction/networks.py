"""What predictions are made with: a run, a checkpoint, or a file that was exported from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sceneparse.models.exported import OnnxNetwork, load_safetensors
from sceneparse.models.graph_archive import GraphNetwork
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.runs.checkpoint import load_segmentation_model, resolve_checkpoint


def load_network(source: str | Path) -> SegmentationNetwork:
    """Load a run or checkpoint folder, or a file of tools/export.py; raises InputError."""
    path = Path(source)
    return FILES.get(path.suffix, load_segmentation_model)(path)


def source_of(source: str | Path) -> Path:
    """Return the file or checkpoint folder that `load_network` reads for a source."""
    path = Path(source)
    return path if path.suffix in FILES else resolve_checkpoint(path)


FILES: dict[str, Callable[[Path], SegmentationNetwork]] = {
    ".onnx": OnnxNetwork,
    ".pt2": GraphNetwork,
    ".safetensors": load_safetensors,
}
