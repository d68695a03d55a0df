"""Search the suspect regions of a dataset, with networks that have not seen its masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.inference.predictor import Predictor
from sceneparse.report.pictures import Picture
from sceneparse.suspects.regions import (
    Disagreement,
    Region,
    SelfConfidence,
    disagreement,
    find_regions,
)

# Networks, each with the numbers of the images that it predicts.
Parts = Iterable[tuple[Predictor, Sequence[int]]]


@dataclass(frozen=True)
class Suspect:
    """A suspect region, and the number of its image in the dataset."""

    image: int
    region: Region


def search(
    dataset: SegmentationDataset, parts: Parts, output: Path, after_image: Callable[[], None]
) -> list[Suspect]:
    """Return the suspect regions of a dataset, the highest score first.

    Predictions are kept in a folder below `output` meanwhile. Raises InputError for a sample that
    cannot be read.
    """
    with TemporaryDirectory(prefix=".predictions-", dir=output) as folder:
        place = Path(folder)
        thresholds = collect_disagreements(dataset, parts, place, after_image)
        return ranked_suspects(place, range(len(dataset)), thresholds)


def collect_disagreements(
    dataset: SegmentationDataset, parts: Parts, folder: Path, after_image: Callable[[], None]
) -> NDArray[np.float64]:
    """Predict images, write where masks disagree to FOLDER/NUMBER.npz; return the thresholds (K,).

    The thresholds are those of all images together, see SelfConfidence. Memory does not grow with
    the number of images.
    """
    classes = dataset.table.num_classes
    trust = SelfConfidence(classes)
    for predictor, numbers in parts:
        for number in numbers:
            image, mask, _ = dataset[number]
            labels, confidence, quality = _predict(predictor, image, mask)
            trust.add(mask, quality)
            found = disagreement(mask, labels, confidence, quality, classes)
            np.savez(folder / f"{number}.npz", **vars(found))
            after_image()
    return trust.thresholds()


def read_disagreement(folder: Path, number: int) -> Disagreement:
    """Read what `collect_disagreements` wrote about an image."""
    with np.load(folder / f"{number}.npz", allow_pickle=False) as arrays:
        return Disagreement(**arrays)


def ranked_suspects(
    folder: Path, numbers: Iterable[int], thresholds: NDArray[np.float64]
) -> list[Suspect]:
    """Return the suspect regions of images in `folder`, the highest score first."""
    found = [
        Suspect(number, region)
        for number in numbers
        for region in find_regions(read_disagreement(folder, number), thresholds)
    ]
    return sorted(found, key=lambda suspect: (-suspect.region.score, suspect.image))


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
