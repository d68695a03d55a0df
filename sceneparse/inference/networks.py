"""Load networks to predict with, from a run, a checkpoint or an exported file."""

import json
import warnings
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.errors import InputError, reason_of, refusing
from sceneparse.files import MAX_DESCRIPTION
from sceneparse.models.description import check_description
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.models.stored import META_KEY, holds_one_model, resolve_checkpoint
from sceneparse.runs.checkpoint import load_segmentation_model
from sceneparse.runtime.onnx import load_onnxruntime

_NOT_OURS = "is damaged, or not an export of this package"
# Logit of a label, 0 for all others: their probability is tiny, its logarithm still finite.
_CERTAIN = 30.0
# Smallest share of labels of an int8 file that must equal the model's, at a size of images.
MIN_AGREEMENT = 0.95


class OnnxNetwork(SegmentationNetwork):
    """An exported ONNX file, run by ONNX Runtime on the CPU.

    A graph that normalises images itself gets pixels. The labels of a graph that ends in an argmax
    become logits, so that views of an image (scales, mirror images) vote. Raises InputError if the
    file is not an export of this package or ONNX Runtime is not installed; in `forward`, if the
    graph does not take images of this size.

    Shape: (B, 3, H, W) normalised images -> {"out": (B, K, h, w)}
    """

    device_types = ("cpu",)

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._session, self.meta = _open_export(self.path)
        self._input = self._session.get_inputs()[0]
        self._export = self.meta["export"]
        self.size_multiple = self._export.get("size_multiple", 1)
        self.min_size = self._export.get("min_size", 1)
        self._checked = _checked_sizes(self._export, self.path)
        # A label has no probability.
        self.gives_confidence = not self._export["argmax"]
        self.precision = f"{'int8' if self._export.get('int8') else 'float32'}, by ONNX Runtime"

    @property
    def output_stride(self) -> int:
        """Input pixels per logit."""
        return 1 if self._export["argmax"] else int(self._export["output_stride"])

    def forward(self, images: Tensor, upsample: bool = False) -> dict[str, Tensor]:
        """Return logits at the stride of the graph; those of labels have full size."""
        if upsample:
            raise InputError("an exported network gives logits at its stride; call upsample=False")
        if self._export["normalize"]:
            mean, std = images.new_tensor([self.mean, self.std])[..., None, None]
            images = 255 * (images * std + mean)
        found = self.run(images)
        if self._export["argmax"]:
            found = certain_logits(found, len(self.classes))
        return {"out": found}

    def run(self, images: Tensor) -> Tensor:
        """Run the graph of the file: pixels or normalised images -> labels or logits."""
        self._warn_if_small(*images.shape[-2:])
        batch, _, *size = self._input.shape
        if not isinstance(size[0], str) and size != list(images.shape[-2:]):
            raise InputError(
                f"'{self.path}' takes images of {size[0]} x {size[1]} only, got "
                f"{images.shape[-2]} x {images.shape[-1]} (padded by the protocol); export it "
                f"without --fixed, or give --protocol slide --crop {size[0]} {size[1]}"
            )
        found = []
        for part in images.split(len(images) if isinstance(batch, str) else batch):
            try:
                found += self._session.run(None, {self._input.name: part.float().numpy()})
            except Exception as error:  # of many types, none of them public
                raise InputError(f"'{self.path}' cannot run: {reason_of(error)}") from error
        return torch.cat([torch.from_numpy(part) for part in found])

    def _warn_if_small(self, height: int, width: int) -> None:
        """Warn, once, of images smaller than those that an int8 file was checked with."""
        checked, self._checked = self._checked, []
        good = list(takewhile(lambda size: size[2] >= MIN_AGREEMENT, checked))
        if not good:
            return
        least, given = sorted(good[-1][:2]), sorted((height, width))
        if all(side >= smallest for side, smallest in zip(given, least, strict=True)):
            self._checked = checked
            return
        shares = ", ".join(f"{share:.1%} at {h} x {w}" for h, w, share in checked)
        warnings.warn(
            f"'{self.path}' is an int8 file for images of {good[-1][0]} x {good[-1][1]} or more, "
            f"got {height} x {width}: more labels than usual may differ from the model's (equal "
            f"when it was exported: {shares}); use a float32 file for such images",
            stacklevel=2,
        )


def certain_logits(labels: Tensor, num_classes: int) -> Tensor:
    """Return logits that stand for labels: (B, H, W) -> (B, K, H, W)."""
    return _CERTAIN * F.one_hot(labels, num_classes).permute(0, 3, 1, 2).float()


def open_session(path: Path) -> Any:  # noqa: ANN401 - of an optional package
    """Open an ONNX file of any program; raises InputError."""
    onnxruntime = load_onnxruntime()
    if not path.is_file():
        raise InputError(f"'{path}' does not exist")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Errors are in the exception; they need not be on standard error too.
    options.log_severity_level = 4
    with refusing(f"'{path}'", "is damaged, or no ONNX file"):
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _open_export(path: Path) -> tuple[Any, dict[str, Any]]:
    session = open_session(path)
    text = session.get_modelmeta().custom_metadata_map.get(META_KEY)
    if text is None:
        raise InputError(
            f"'{path}' is not an export of this package; to evaluate a network of another program, "
            "say how it takes images: sceneparse evaluate FILE --mean R G B --std R G B"
        )
    return session, _read_description(text, path)


def _checked_sizes(export: dict[str, Any], path: Path) -> list[tuple[int, int, float]]:
    """Return at which sizes an int8 file was compared, the largest first: equal labels at each."""
    with refusing(f"'{path}'", _NOT_OURS):
        return [(int(h), int(w), float(share)) for h, w, share in export.get("checked", [])]


def _read_description(text: str, path: Path) -> dict[str, Any]:
    """Parse the description of the model in a file; raises InputError if parts are missing."""
    with refusing(f"'{path}'", _NOT_OURS):
        if len(text) > MAX_DESCRIPTION:
            raise InputError(f"'{path}' has a description of {len(text):,} bytes")
        meta = check_description(json.loads(text), path)
        _ = meta["classes"], meta["colors"], meta["mean"], meta["std"]
        for name, kind in (("normalize", bool), ("argmax", bool), ("output_stride", int)):
            if not isinstance(meta["export"][name], kind):
                raise InputError(f"'{path}': export.{name} must be {kind.__name__}")
        for name, largest in (("output_stride", 256), ("size_multiple", 4096), ("min_size", 4096)):
            value = meta["export"].get(name, 1)  # older files lack the last two
            if not isinstance(value, int) or not 1 <= value <= largest:
                raise InputError(f"'{path}': export.{name} must be in 1..{largest}")
    return meta


def load_network(source: str | Path) -> SegmentationNetwork:
    """Load a run, a checkpoint, an exported file, or a folder of `save_pretrained`.

    Raises InputError. .pt2 files are rejected, because loading one runs code that the file names.
    """
    path = Path(source).expanduser()
    if path.suffix == ".pt2":
        raise InputError(
            f"'{path}': .pt2 files are for other programs; use an ONNX file instead: "
            "sceneparse export RUN --format onnx"
        )
    return OnnxNetwork(path) if path.suffix == ".onnx" else load_segmentation_model(path)


def source_of(source: str | Path) -> Path:
    """Return the file or checkpoint folder that `load_network` reads."""
    path = Path(source).expanduser()
    is_model = path.suffix in {".onnx", ".safetensors"} or holds_one_model(path)
    return path if is_model else resolve_checkpoint(path)
