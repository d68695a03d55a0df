"""The models of a page: they predict one picture at a time."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Sequence

from sceneparse.demo.legends import LETTERS, class_order, legends_of
from sceneparse.demo.results import Result
from sceneparse.demo.samples import Load, Samples
from sceneparse.errors import one_line
from sceneparse.inference.predictor import Predictor
from sceneparse.report.pictures import Picture

logger = logging.getLogger(__name__)


class Demo:
    """One or two models, their legends, and the samples that are offered.

    `models`: names and predictors. `letters`: of the models, empty if there is one.
    """

    def __init__(self, models: Sequence[tuple[str, Predictor]], samples: Samples) -> None:
        self.names = [one_line(name) for name, _ in models]
        self.predictors = [predictor for _, predictor in models]
        self.samples = samples
        self.letters = list(LETTERS) if len(models) > 1 else [""]
        tables = [predictor.table for predictor in self.predictors]
        self.order = class_order(*(t.names for t in tables)) if len(tables) == 2 else None
        self.legends = legends_of(tables, self.order)
        self._computing = threading.Lock()

    def predict(self, name: str, load: Load) -> Result:
        """Predict a picture with all models. Raises InputError if it cannot be read."""
        with self._computing, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            start = time.monotonic()
            images = _images(load, [p.model.bit_depth for p in self.predictors])
            predictions = [
                predictor.batch([image], keep_confidence=predictor.model.gives_confidence)[0]
                for predictor, image in zip(self.predictors, images, strict=True)
            ]
            seconds = time.monotonic() - start
        notes = [one_line(w.message) for w in caught if issubclass(w.category, UserWarning)]
        return Result(one_line(name), self.names, predictions, self.order, seconds, notes)

    def finish(self) -> None:
        """Wait for the picture that is being predicted; none can be predicted afterwards."""
        if not self._computing.acquire(blocking=False):
            logger.info("stopping as soon as the picture at work is predicted")
            self._computing.acquire()


def _images(load: Load, bit_depths: Sequence[int | None]) -> list[Picture]:
    """Read a picture for each model, once for models that read 16-bit images alike."""
    by_depth = {depth: load(depth) for depth in dict.fromkeys(bit_depths)}
    return [by_depth[depth] for depth in bit_depths]
