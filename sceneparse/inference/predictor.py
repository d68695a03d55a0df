"""Predict images with a trained model: `Predictor("runs/quickstart")("street.jpg")`."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sceneparse.data.datasets import DATASETS
from sceneparse.data.labels import (
    Labels,
    LabelTable,
    count_labels,
    identity_table,
    load_label_table,
)
from sceneparse.errors import InputError, first_few, one_line
from sceneparse.inference.images import ImageLike, load_picture
from sceneparse.inference.job import Predicted, predict_folder
from sceneparse.inference.networks import load_network
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.prepare import DTYPES, prepare_for_inference
from sceneparse.inference.protocols import Protocol, create_protocol
from sceneparse.inference.scores import PixelScores
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.report.notebook import prediction_html, shrunk
from sceneparse.report.pictures import Picture, colorize, overlay, transparent_classes
from sceneparse.runtime.devices import choose_device, lack_of_type, validate_compile
from sceneparse.runtime.precision import PRECISIONS, Compute, choose_dtype

logger = logging.getLogger(__name__)

# Images with more pixels are predicted in tiles, so that memory does not grow with them.
MAX_WHOLE = 9_000_000
TILE, MARGIN = 768, 128
_PART = TILE + 2 * MARGIN
# Pixels of a batch, at the largest scale.
_BATCH_PIXELS = 4_000_000

# Classes that the text of a prediction names.
_MAX_NAMED = 4
# Pixels of the long side of pictures in notebooks.
_NOTEBOOK_SIDE = 1600


class Predictor:
    """Predicts images with a trained model, by default under the protocol of its validation.

    `source`: a run folder, a checkpoint, an exported file, a folder of `save_pretrained`, or a
    model. `device`: "cpu", "cuda", "cuda:NUMBER" or "mps"; None: the best available, GPUs first.
    `amp`: mixed precision, auto, bf16, fp16 or off; None: as in training. `dtype` ("float32",
    "bfloat16", "float16") and `compile`: prepare the network for speed (prepare_for_inference); not
    together with `amp`. `abstain`: pixels whose confidence (the probability of their class) is
    below it get the ignore index (255) instead of a class; warns if the model is not calibrated.
    `protocol`, `settings`: name and settings for create_protocol; None: as in validation.

    If the model is calibrated (`sceneparse calibrate`), logits are divided by its temperature.
    Raises InputError if the checkpoint cannot be used.
    """

    def __init__(
        self,
        source: str | Path | SegmentationNetwork,
        *,
        device: str | None = None,
        amp: str | None = None,
        dtype: str | None = None,
        compile: bool = False,
        abstain: float | None = None,
        protocol: str | None = None,
        **settings: Any,  # noqa: ANN401 - create_protocol's
    ) -> None:
        network = source if isinstance(source, SegmentationNetwork) else load_network(source)
        network.eval()
        self.table = table_of(network)
        self.calibration: dict[str, Any] | None = network.meta.get("calibration")
        temperature = self.calibration["temperature"] if self.calibration else 1.0
        found = protocol_of(network, protocol, **settings)
        self.protocol = replace(found, temperature=temperature)
        self.abstain = _checked_threshold(abstain, network)
        chosen = choose_device(device, network.device_types)
        self._compiled, self._prepared = compile, compile or dtype is not None
        if self._prepared and amp is not None:
            raise InputError("give dtype and compile, or amp, not both")
        if self._prepared:
            _validate_prepared(dtype, compile, chosen)
            network = prepare_for_inference(network, dtype=dtype or "float32", compile=compile)
        amp_type = None if self._prepared else _amp_type(network, amp, chosen)
        self.model, self.compute = network, Compute(chosen, amp_type)
        self.compute.place_model(self.model)
        self.normalize = Normalization(self.model.mean, self.model.std)

    def __repr__(self) -> str:
        classes = f"{self.table.num_classes} classes: {first_few(self.table.names)}"
        return f"Predictor({classes}; {self.protocol.description}; {self.precision})"

    @overload
    def __call__(self, image: ImageLike) -> Prediction: ...
    @overload
    def __call__(self, image: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...
    def __call__(
        self, image: ImageLike | list[Any] | tuple[Any, ...]
    ) -> Prediction | list[Prediction]:
        """Predict an image, or each image of a list: files, Pillow images, arrays or tensors.

        Arrays (H, W, C) and tensors (C, H, W) are RGB, RGBA or grey, of uint8, uint16 or floats in
        0..1 (see load_picture). Raises InputError for other values.
        """
        if isinstance(image, list | tuple):
            return [self(each) for each in image]
        return self.batch([load_picture(image, self.model.bit_depth)], keep_probabilities=True)[0]

    @property
    def precision(self) -> str:
        """Description of the precision, such as "bfloat16, norms folded, temperature 1.32"."""
        kind = self.model.precision or self.compute.name
        if self._prepared:
            kind = str(next(self.model.parameters()).dtype).removeprefix("torch.")
            kind += ", norms folded" + (", compiled" if self._compiled else "")
        temperature = self.protocol.temperature
        return kind if temperature == 1 else f"{kind}, temperature {temperature:.3g}"

    @torch.inference_mode()
    def batch(
        self,
        images: Sequence[Picture],
        *,
        keep_probabilities: bool = False,
        keep_confidence: bool = False,
    ) -> list[Prediction]:
        """Predict RGB images (H, W, 3) of equal size together.

        `keep_probabilities`: predictions can compute their `probabilities`, which takes memory.
        `keep_confidence`: predictions hold the `confidence` of their labels. Raises InputError if
        the sizes differ.
        """
        height, width = images[0].shape[:2]
        if any(image.shape != images[0].shape for image in images):
            raise InputError("images of a batch must be of equal size")
        if self._needs_tiles(height, width):
            return [self._predict_tiles(image, keep_confidence) for image in images]
        scores = self.score(np.stack(images))
        labels = self._labels_of(scores)
        confidence = self._confidence_in(scores, labels) if keep_confidence else None
        return [
            Prediction(
                image,
                labels[index],
                self.table,
                scores if keep_probabilities else None,
                index,
                confidence=None if confidence is None else confidence[index],
            )
            for index, image in enumerate(images)
        ]

    def predict_folder(
        self,
        folder: str | Path,
        output: str | Path,
        *,
        save: Sequence[str] = ("index", "overlay"),
        opacity: float = 0.5,
    ) -> Predicted:
        """Predict all images and videos below a folder into files, as `sceneparse predict` does.

        `output` gets a folder for each kind of `save` (index, color, overlay, raw, probabilities)
        and shares.json. `opacity`: of overlays. Shows progress on stderr. Files that cannot be read
        are skipped and listed in the result; results of earlier predictions are skipped too.
        Raises InputError if nothing can be predicted, or if a result would overwrite an input.
        """
        folder, output = Path(folder).expanduser(), Path(output).expanduser()
        return predict_folder(self, folder, output, save, opacity)

    def _needs_tiles(self, height: int, width: int) -> bool:
        # A photo that is resized as in training is small when it comes to the network.
        resized = self.protocol.rescale == "training"
        size = self.protocol.largest_scaled(height, width) if resized else height * width
        return size > MAX_WHOLE

    def images_at_once(self, height: int, width: int) -> int:
        """Return a batch size for images of a size, in pixels."""
        largest = max(height * width, self.protocol.largest_scaled(height, width))
        return max(_BATCH_PIXELS // largest, 1)

    @torch.inference_mode()
    def score(self, images: NDArray[np.uint8], protocol: Protocol | None = None) -> PixelScores:
        """Score images (B, H, W, 3) of any size as a whole."""
        writable = images if images.flags.writeable else images.copy()
        tensor = torch.from_numpy(writable).permute(0, 3, 1, 2)
        with self.compute.autocast():
            pixels = self.compute.place_images(tensor)
            return (protocol or self.protocol)(self.model, pixels, self.normalize)

    def _labels_of(self, scores: PixelScores) -> Labels:
        """Return the labels of images (B, H, W), the ignore index where confidence is missing."""
        if self.abstain is None:
            return np.asarray(scores.labels().cpu())
        labels, confidence = scores.labels_and_confidence()
        if self.table.ignore_index > 255:
            labels = labels.int()
        unsure = confidence < self.abstain
        return np.asarray(labels.masked_fill(unsure, self.table.ignore_index).cpu())

    def _confidence_in(self, scores: PixelScores, labels: Labels) -> NDArray[np.float32]:
        """Return the probability of labels (B, H, W), 0 for the ignore index."""
        given = torch.from_numpy(labels.astype(np.int64)).to(self.compute.device)
        return np.asarray(scores.confidence_in(given).float().cpu())

    def _predict_tiles(self, image: Picture, keep_confidence: bool) -> Prediction:
        """Predict tiles, each with a margin of context around it."""
        height, width = image.shape[:2]
        protocol = self.protocol.for_parts_of(height, width)
        small = self.table.num_classes <= (256 if self.abstain is None else 255)
        labels = np.empty((height, width), np.uint8 if small else np.int32)
        confidence = np.empty((height, width), np.float32) if keep_confidence else None
        for top, left in product(range(0, height, TILE), range(0, width, TILE)):
            # All parts have one size, so that the memory of one can be reused for the next.
            above = max(min(top - MARGIN, height - _PART), 0)
            before = max(min(left - MARGIN, width - _PART), 0)
            part = image[above : above + _PART, before : before + _PART]
            scores = self.score(np.ascontiguousarray(part)[None], protocol)
            found = self._labels_of(scores)
            inner = np.s_[0, top - above :, left - before :]
            tile = np.s_[top : top + TILE, left : left + TILE]
            labels[tile] = found[inner][:TILE, :TILE]
            if confidence is not None:
                confidence[tile] = self._confidence_in(scores, found)[inner][:TILE, :TILE]
        return Prediction(image, labels, self.table, tiled=True, confidence=confidence)


@dataclass(frozen=True, repr=False)
class Prediction:
    """The prediction of an image: `labels` (H, W), the class number of each pixel.

    With `abstain`, pixels below the threshold hold the ignore index. `table`: the classes. `tiled`:
    whether the image was predicted in tiles, since it is large. `confidence` (H, W): the
    probability of each pixel's class, 0 without a class; None if it was not kept.
    """

    image: Picture
    labels: Labels
    table: LabelTable
    _scores: PixelScores | None = None
    _index: int = 0
    tiled: bool = False
    confidence: NDArray[np.float32] | None = None

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Probabilities of all classes (K, H, W), computed at the first use.

        Raises InputError if they were not kept, or if the image has more than 9 million pixels.
        """
        if self.labels.size > MAX_WHOLE:
            raise InputError(
                f"probabilities of an image of over {MAX_WHOLE / 1e6:.0f} million pixels would "
                "not fit in memory; cut the image first"
            )
        if self._scores is None:
            raise InputError("the probabilities were not kept; pass keep_probabilities=True")
        found: NDArray[np.float32] = self._scores.probabilities()[self._index].cpu().numpy()
        return found

    @property
    def abstained(self) -> float:
        """Share of the pixels without a class, because their confidence is below `abstain`."""
        return float((self.labels == self.table.ignore_index).mean())

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image that each class covers, largest first, without absent classes."""
        counts = count_labels(self.labels, self.table.num_classes)
        order = sorted(np.flatnonzero(counts), key=lambda k: -counts[k])
        return {self.table.names[k]: float(counts[k] / self.labels.size) for k in order}

    def __repr__(self) -> str:
        """Return one line: width, height, and the classes with their shares of the image."""
        height, width = self.labels.shape
        classes = [f"{one_line(name)} {100 * share:.1f}%" for name, share in self.shares.items()]
        return f"Prediction({width}x{height}: {first_few(classes, _MAX_NAMED)})"

    def _repr_html_(self) -> str:
        """Return the overlay and a legend with shares, which notebooks show."""
        table = self.table
        classes = zip(table.names, table.colors, transparent_classes(table), strict=True)
        painted = {name: None if clear else color for name, color, clear in classes}
        rows = [(name, share, painted[name]) for name, share in self.shares.items()]
        if self.abstained:
            rows.append(("no class", self.abstained, None))
        rows.sort(key=lambda row: -row[1])
        return prediction_html(self.image, self.labels, table, rows)

    def _repr_png_(self) -> bytes:
        """Return the overlay as a PNG file, for what cannot show HTML; large ones are smaller."""
        small = shrunk(self.image, self.labels, _NOTEBOOK_SIDE)
        picture = Image.fromarray(overlay(*small, self.table))
        picture.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue()

    def color(self) -> Picture:
        """Paint each pixel in the colour of its class."""
        return colorize(self.labels, self.table.colors)

    def overlay(
        self, opacity: float = 0.5, *, legend: Literal["seen", "all", "none"] = "seen"
    ) -> Picture:
        """Return the image blended with the colours of its classes, above a legend.

        `legend`: "seen" (classes in the image), "all" (pictures then have equal height) or "none".
        """
        return overlay(self.image, self.labels, self.table, opacity, legend)

    def save(self, path: str | Path) -> None:
        """Write the overlay to a picture file; the suffix decides its format."""
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.overlay()).save(path)


def _checked_threshold(abstain: float | None, network: SegmentationNetwork) -> float | None:
    """Return the confidence below which pixels get no class; raises InputError."""
    if abstain is None:
        return None
    if not 0 < abstain < 1:
        raise InputError(f"abstain must be above 0 and below 1, got {abstain}")
    if abstain <= 1 / (classes := table_of(network).num_classes):
        raise InputError(
            f"abstain has no effect at {abstain:g}: the most probable of {classes} classes has at "
            f"least {1 / classes:.3g}; give a number between that and 1"
        )
    if not network.gives_confidence:
        raise InputError(
            "this file gives labels without confidences, so abstain has no effect; export the "
            "model without --argmax"
        )
    if "calibration" not in network.meta:
        warnings.warn(
            "confidences are not calibrated, so abstain can leave too many or too few pixels "
            "without a class; run: sceneparse calibrate RUN (then export again, if it is a file)",
            stacklevel=3,
        )
    return abstain


def _validate_prepared(dtype: str | None, compile: bool, device: torch.device) -> None:
    """Raise InputError if a device cannot run a network that is prepared like this."""
    if compile:
        validate_compile(device)
    reason = lack_of_type(DTYPES.get(dtype or "float32"), device)
    # CPUs compute in float16 too, but slowly.
    if reason is not None and device.type != "cpu":
        raise InputError(f"dtype: {dtype} {reason}; use float16 or float32")


def _amp_type(
    network: SegmentationNetwork, amp: str | None, device: torch.device
) -> torch.dtype | None:
    """Return the type of mixed precision: that of `amp`; None: of training, if possible here.

    If it is not possible, logs what is used instead.
    """
    if network.precision is not None:
        if amp is not None:
            raise InputError(f"this network computes in {network.precision}; omit amp")
        return None
    trained = network.meta.get("config", {}).get("train", {}).get("amp", "auto")
    reason = lack_of_type(PRECISIONS.get(trained), device)
    if amp is None and reason is not None:
        logger.info(f"precision: float32, since {trained}, as in training, {reason}")
        trained = "off"
    return choose_dtype(amp or trained, device)


def table_of(model: SegmentationNetwork) -> LabelTable:
    """Return the label table of the dataset a model was trained on."""
    dataset = model.meta.get("data", {}).get("dataset", "folder")
    if dataset == "folder" or dataset not in DATASETS:
        return identity_table(model.classes, model.colors)
    return load_label_table(dataset)


def protocol_of(model: SegmentationNetwork, name: str | None = None, **settings: Any) -> Protocol:  # noqa: ANN401
    """Return the protocol a model was validated with, or the one called `name`.

    `settings` that are not None change it. Raises InputError for a setting without effect, and for
    windows that are too small for the network.
    """
    trained = dict(model.meta.get("eval", {"name": "whole"}))
    if name not in {None, trained["name"]}:
        trained = {"name": name, "crop": trained.get("crop")}
    windows = [key for key in ("crop", "weighting") if settings.get(key) is not None]
    if windows and create_protocol(trained["name"]).crop is None:
        raise InputError(
            f"protocol {trained['name']} has no windows, so --{windows[0]} has no effect; "
            "give --protocol slide, spnet or mmseg_slide with it"
        )
    given = {key: value for key, value in settings.items() if value is not None}
    if "crop" in given:
        height, width = given["crop"]
        model.require_features(height, width, "--crop")
    data = model.meta.get("data", {})
    kept = {"dataset": data.get("dataset"), "resize": data.get("resize")}
    return create_protocol(**{**kept, **trained, **given})
