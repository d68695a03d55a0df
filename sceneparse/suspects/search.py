"""Search the suspect regions of a dataset, with networks that have not seen its masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.inference.predictor import Predictor
from sceneparse.report.pictures import Picture
from sceneparse.runtime.progress import Progress
from sceneparse.suspects.regions import Disagreement, Region, disagreement, find_regions

# Networks, each with the numbers of the images that it predicts.
Parts = Iterable[tuple[Predictor, Sequence[int]]]


@dataclass(frozen=True)
class Suspect:
    """A suspect region, and the number of its image in the dataset."""

    image: int
    region: Region


def search(dataset: SegmentationDataset, parts: Parts) -> list[Suspect]:
    """Return the suspect regions of a dataset, the highest score first.

    Raises InputError for a sample that cannot be read.
    """
    found = []
    with Progress("question labels", len(dataset), "images") as progress:
        for number, differing in disagreements(dataset, parts):
            found += [Suspect(number, region) for region in find_regions(differing)]
            progress.advance()
    return ranked(found)


def ranked(suspects: Iterable[Suspect]) -> list[Suspect]:
    """Return suspects in the order of their scores, the highest first."""
    return sorted(suspects, key=lambda suspect: (-suspect.region.score, suspect.image))


def disagreements(dataset: SegmentationDataset, parts: Parts) -> Iterator[tuple[int, Disagreement]]:
    """Predict images; yield the number of each, and where its mask and the prediction disagree."""
    classes = dataset.table.num_classes
    for predictor, numbers in parts:
        for number in numbers:
            image, mask, _ = dataset[number]
            labels, confidence, quality = _predict(predictor, image, mask)
            yield number, disagreement(mask, labels, confidence, quality, classes)


@torch.inference_mode()
def _predict(
    predictor: Predictor, image: Picture, mask: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    """Return the most probable classes, their probability, and that of the mask's: (H, W) each."""
    scores = predictor.score(image[None])
    labels, confidence = scores.labels_and_confidence()
    given = torch.from_numpy(mask.astype(np.int64))[None].to(confidence.device)
    found = (labels, confidence.float(), scores.confidence_in(given).float())
    first, second, third = (part[0].cpu().numpy() for part in found)
    return first, second, third
