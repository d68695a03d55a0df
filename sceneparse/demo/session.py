"""The models of the page and their latest results, which are in memory only."""

from __future__ import annotations

import secrets
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

from sceneparse.data.decoding import MAX_IMAGE_PIXELS
from sceneparse.demo.results import (
    FILES,
    MAX_VIEW,
    Choice,
    Result,
    at_view_size,
    class_order,
    maps_to_draw,
)
from sceneparse.demo.samples import Load, Samples
from sceneparse.errors import InputError, one_line
from sceneparse.inference.predictor import MAX_WHOLE, Predictor
from sceneparse.report.pages import picture_uri
from sceneparse.report.pictures import Picture, transparent_classes

# Bytes of an upload.
MAX_UPLOAD = 128 * 2**20
# Limits of the results that can be downloaded; the newest is kept at any size.
_KEPT_RESULTS, _KEPT_PIXELS = 8, 30_000_000


class Demo:
    """Predicts pictures with one or two models, one picture at a time, and keeps a few results.

    `models`: names and predictors.
    """

    def __init__(self, models: Sequence[tuple[str, Predictor]], samples: Samples) -> None:
        self.names = [one_line(name) for name, _ in models]
        self.predictors = [predictor for _, predictor in models]
        self.samples = samples
        self.order: list[int] | None = None
        if len(models) == 2:
            self.order = class_order(*(p.table.names for p in self.predictors))
        self._results: dict[str, Result] = {}
        self._computing = threading.Lock()

    def description(self) -> dict[str, Any]:
        """Return what the page needs before the first picture: models, samples, limits, colours."""
        return {
            "models": [
                {
                    "name": name,
                    "facts": f"{predictor.compute.device}, {predictor.precision}, "
                    f"{predictor.protocol.description}",
                    "classes": predictor.table.names,
                    "colors": predictor.table.colors,
                    "unpainted": transparent_classes(predictor.table),
                }
                for name, predictor in zip(self.names, self.predictors, strict=True)
            ],
            "order": self.order,
            "samples": [
                {"name": one_line(s.name), "thumbnail": s.thumbnail} for s in self.samples.pictures
            ],
            "samples_are": one_line(self.samples.description),
            "limits": {"bytes": MAX_UPLOAD, "pixels": MAX_IMAGE_PIXELS, "whole": MAX_WHOLE},
            # From a low to a high confidence; also told apart by colour-blind people.
            "ramp": mpl.colormaps["viridis"](range(256), bytes=True)[:, :3].tolist(),
        }

    def predict(self, name: str, load: Load) -> dict[str, Any]:
        """Predict a picture with all models; return what the page draws. Raises InputError."""
        with self._computing, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            start = time.monotonic()
            images = _images(load, [p.model.bit_depth for p in self.predictors])
            predictions = [
                predictor.batch([image], keep_confidence=predictor.model.gives_confidence)[0]
                for predictor, image in zip(self.predictors, images, strict=True)
            ]
            seconds = time.monotonic() - start
            result = Result(one_line(name), self.names, predictions)
            key = self._keep(result)
        labels = predictions[0].labels
        height, width = at_view_size(labels).shape
        return {
            "key": key,
            "name": result.name,
            "width": labels.shape[1],
            "height": labels.shape[0],
            "view": {"width": width, "height": height},
            "seconds": seconds,
            "tiled": any(prediction.tiled for prediction in predictions),
            "notes": [one_line(w.message) for w in caught if issubclass(w.category, UserWarning)],
            "picture": picture_uri(images[0], MAX_VIEW),
            "maps": [maps_to_draw(prediction) for prediction in predictions],
            "differing": result.differing(self.order),
        }

    def file(self, key: str, model: int, kind: str, choice: Choice) -> tuple[bytes, str]:
        """Return a file of a kept result, and its media type; `kind`: one of FILES.

        Raises InputError if the result is no longer kept.
        """
        result = self._results.get(key)
        if result is None:
            raise InputError("this result is no longer in memory; choose the picture again")
        make, media_type = FILES[kind]
        return make(result, model, choice), media_type

    def finish(self) -> None:
        """Wait for the picture that is being predicted; none can be predicted afterwards."""
        self._computing.acquire()

    def _keep(self, result: Result) -> str:
        """Keep a result instead of the oldest ones; return its key, which nobody can guess."""
        kept = list(self._results.items())[1 - _KEPT_RESULTS :]
        while kept and result.pixels + sum(old.pixels for _, old in kept) > _KEPT_PIXELS:
            kept.pop(0)
        key = secrets.token_urlsafe(12)
        self._results = {**dict(kept), key: result}
        return key


def _images(load: Load, bit_depths: Sequence[int | None]) -> list[Picture]:
    """Read a picture for each model, once for models that read 16-bit images alike."""
    by_depth = {depth: load(depth) for depth in dict.fromkeys(bit_depths)}
    return [by_depth[depth] for depth in bit_depths]
