"""The files that predictions become, in an output folder."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sceneparse.data.file_names import require_own_files, storable
from sceneparse.errors import InputError, unknown_name
from sceneparse.inference.results import KINDS, SHARES_FILE, ResultList
from sceneparse.report.pictures import save_labels

if TYPE_CHECKING:
    from sceneparse.inference.inputs import Source
    from sceneparse.inference.predictor import Prediction


def result_name(kind: str, name: str) -> str:
    """Return the name of a result in the output folder: index/NAME.png, with slashes."""
    # The Cityscapes server expects names of city, sequence and frame alone.
    short = name.removesuffix("_leftImg8bit") if kind == "raw" else name
    return f"{kind}/{short}{'.npz' if kind == 'probabilities' else '.png'}"


class Writer:
    """Writes predictions into a folder, and shares.json beside them: the share of each class.

    `save`: among KINDS. `opacity`: of overlays, in 0..1. `shares`: of each finished input; of a
    video a list with an entry per frame. `pixels`: of all images, `abstained`: those without a
    class. Raises InputError for an unknown kind, and for an opacity outside 0..1.
    """

    def __init__(self, output: Path, save: Sequence[str], opacity: float = 0.5) -> None:
        if not save or isinstance(save, str):
            raise InputError(f"save must be a list of kinds, such as ['index'], got {save!r}")
        if unknown := [kind for kind in save if kind not in KINDS]:
            raise unknown_name("kind to save", unknown[0], KINDS)
        if not 0 <= opacity <= 1:
            raise InputError(f"opacity must be in 0..1, got {opacity}")
        self.output, self.save, self.opacity = output, save, opacity
        self.shares: dict[str, Any] = {}
        self.pixels, self.abstained = 0, 0.0
        self._written = ResultList(output)

    @property
    def needs_probabilities(self) -> bool:
        """Whether a prediction must keep its probabilities."""
        return "probabilities" in self.save

    def path(self, kind: str, name: str) -> Path:
        """Return the file of a kind for an image."""
        return self.output / storable(result_name(kind, name))

    def require_own_files(self, sources: Sequence[Source]) -> None:
        """Raise InputError if a result would get the path of an input, or of another result."""
        results = list(itertools.product(self.save, sources))
        files = [(result_name(kind, s.name), os.path.abspath(s.path)) for kind, s in results]  # noqa: PTH100
        require_own_files(files, self.output)
        inputs = {source.path.resolve() for source in sources}
        for kind, source in results:
            path = self.path(kind, source.name)
            if path.is_file() and path.resolve() in inputs:
                raise InputError(
                    f"the {kind} result of '{source.path}' would overwrite the input '{path}'; "
                    "choose another output folder"
                )

    def add(self, path: Path) -> None:
        """Note a result before it is written, so that it is never taken for an input."""
        self._written.add(path)

    def write(self, prediction: Prediction, name: str, kinds: Sequence[str]) -> None:
        """Write the files of one image."""
        self.pixels += prediction.labels.size
        self.abstained += prediction.labels.size * prediction.abstained
        for kind in kinds:
            path = self.path(kind, name)
            self.add(path)
            if kind == "probabilities":
                probabilities = prediction.probabilities.astype(np.float16)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path, probabilities=probabilities)
            else:
                labels, table = prediction.labels, prediction.table
                save_labels(kind, path, prediction.image, labels, table, self.opacity)

    def close(self) -> None:
        """Write the shares."""
        path = self.output / SHARES_FILE
        self.add(path)
        path.write_text(json.dumps(self.shares, indent=1) + "\n", encoding="utf-8")
