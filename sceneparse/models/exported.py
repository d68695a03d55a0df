"""Networks that were exported to files, run in place of a segmentation model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sceneparse.errors import InputError
from sceneparse.models import create_segmentation_model
from sceneparse.models.pretrained import load_strict
from sceneparse.models.segmentation import SegmentationModel, SegmentationNetwork

# The key of the model's description among the metadata of a file.
META_KEY = "sceneparse"


class OnnxNetwork(SegmentationNetwork):
    """An ONNX file of tools/export.py, run by ONNX Runtime on the CPU.

    Shape: (B, 3, H, W) images, normalised unless the graph does it -> {"out": (B, K, h, w)}.
    Raises InputError where the file is not one, or ONNX Runtime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._session, meta = _open(Path(path))
        self.meta = meta
        self._input = self._session.get_inputs()[0].name

    @property
    def output_stride(self) -> int:
        """Input pixels per logit."""
        return int(self.meta["export"]["output_stride"])

    def run(self, images: Tensor) -> Tensor:
        """Run the graph: logits, or labels where it ends in an argmax."""
        (found,) = self._session.run(None, {self._input: images.float().cpu().numpy()})
        return torch.from_numpy(found).to(images.device)

    def forward(self, images: Tensor, upsample: bool = False) -> dict[str, Tensor]:
        if upsample:
            raise InputError("an exported network gives logits at its stride; call upsample=False")
        return {"out": self.run(images)}


def load_safetensors(path: str | Path) -> SegmentationModel:
    """Rebuild a model from a file of tools/export.py, in eval mode; raises InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"'{path}' does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()[META_KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        arguments = dict(meta["model"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is damaged, or not an export of tools/export.py") from error
    model = create_segmentation_model(**arguments)
    load_strict(model, state, str(path))
    model.meta = meta
    return model.eval()


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra that few need
    except ImportError as error:
        raise InputError(
            "onnxruntime is not installed; run: pip install 'sceneparse[export]'"
        ) from error
    if not path.is_file():
        raise InputError(f"'{path}' does not exist")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        text = session.get_modelmeta().custom_metadata_map[META_KEY]
        meta: dict[str, Any] = json.loads(text)
        _ = meta["classes"], meta["mean"], meta["std"], meta["export"]["output_stride"]
    except Exception as error:  # of many kinds, none of them public
        raise InputError(f"'{path}' is damaged, or not an export of tools/export.py") from error
    return session, meta
