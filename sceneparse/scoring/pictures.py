"""The pictures of a scored folder: predictions that are kept for the report, and their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.datasets import Sample
from sceneparse.data.labels import Labels
from sceneparse.data.reading import read_image
from sceneparse.evaluation.result import image_mean_iou
from sceneparse.scoring.matching import Match, match_files
from sceneparse.scoring.score import AfterImage, Readers
from sceneparse.training.examples import KeptExamples

# What is shown where the image is not known.
_GREY = 200


@dataclass(frozen=True)
class Shown:
    """Image, mask and name of each match; the image is grey if it is not known."""

    matches: Sequence[Match]
    readers: Readers
    images: Mapping[str, Path]

    def __getitem__(self, number: int) -> Sample:
        match = self.matches[number]
        truth = self.readers.truth.read(match.truth)
        path = self.images.get(match.name)
        if path is None:
            return np.full((*truth.shape, 3), _GREY, np.uint8), truth, match.name
        return read_image(path), truth, match.name


def kept_pictures(
    matches: Sequence[Match], readers: Readers, images: Path | None, excluded: Sequence[int]
) -> tuple[KeptExamples, AfterImage]:
    """Return what keeps the worst and best predictions, and what to call after each image.

    `images`: a folder of the images; None: they are not known.
    """
    masks = {match.name: match.truth for match in matches}
    found = () if images is None else match_files(images, masks).matches
    shown = Shown(matches, readers, {match.name: match.prediction for match in found})
    kept = KeptExamples(shown, [])

    def keep(number: int, prediction: Labels, counts: NDArray[np.int64]) -> None:
        kept.add(number, prediction, float(image_mean_iou(counts, excluded)))

    return kept, keep
