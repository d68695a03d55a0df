"""Compute what the page about two compared evaluations shows: the images that differ most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset, classes_unless_named, create_dataset
from sceneparse.data.file_names import storable
from sceneparse.data.labels import count_labels
from sceneparse.data.reading import read_mask
from sceneparse.errors import InputError
from sceneparse.evaluation.result import Stored, image_mean_iou
from sceneparse.inference.predictor import Predictor
from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH
from sceneparse.report.pages import example_layers, figure_of_layers
from sceneparse.report.pictures import Example, Picture
from sceneparse.report.tables import Table, four_digits, points
from sceneparse.training.examples import KeptExamples

if TYPE_CHECKING:
    from sceneparse.evaluation.compare import Comparison

# Images of each kind in the table and as pictures, and of how many the pictures are chosen.
_LISTED, _SHOWN, _CANDIDATES = 20, 4, 24
# Largest difference of the score of an image from the stored one, by another precision or device.
_TOLERANCE = 0.02
_GAIN, _LOSE = "Images that gain most", "Images that lose most"

# Labels (H, W) of an image (H, W, 3) and its name.
Predictions = Callable[[Picture, str], NDArray[Any]]


def image_values(comparison: Comparison, palette: str = "dataset") -> dict[str, Any]:
    """Return tables, pictures and notes about the images that gain and lose most.

    `palette`: of the classes in pictures, see LabelTable.with_palette.
    Pictures show the predictions that `sceneparse evaluate --save index` wrote; without them the
    networks predict these few images once more.
    """
    scores = np.array([image_mean_iou(s.by_image) for s in (comparison.first, comparison.second)])
    gains = scores[1] - scores[0]
    order = np.argsort(gains, kind="stable")
    order = order[~np.isnan(gains[order])]
    ranked = {
        _GAIN: [int(k) for k in order[::-1] if gains[k] > 0],
        _LOSE: [int(k) for k in order if gains[k] < 0],
    }
    notes: list[str] = []
    try:
        pictures = _pictures(comparison, ranked, scores, palette)
    except InputError as error:
        pictures = {"galleries": {}, "classes": []}
        notes = [f"There are no pictures of the images: {error}."]
    tables = [
        _table(heading, comparison.first.images, found[:_LISTED], scores)
        for heading, found in ranked.items()
        if found
    ]
    return {"tables": tables, "notes": notes, **pictures}


def _table(
    heading: str, names: Sequence[str], numbers: Sequence[int], scores: NDArray[np.float64]
) -> Table:
    rows = [
        [names[k], *map(four_digits, scores[:, k]), points(scores[1, k] - scores[0, k])]
        for k in numbers
    ]
    return Table(heading, ["image", "A", "B", "B - A"], rows)


def _pictures(
    comparison: Comparison,
    ranked: dict[str, list[int]],
    scores: NDArray[np.float64],
    palette: str,
) -> dict[str, Any]:
    """Return galleries and classes; raises InputError if images or predictions are missing."""
    first, second = comparison.first, comparison.second
    dataset = _open_images(first)
    dataset.table = dataset.table.with_palette(palette)
    sides = {"A": (first, _predictions_of(first)), "B": (second, _predictions_of(second))}
    kept = KeptExamples(dataset, [])
    galleries: dict[str, list[dict[str, Any]]] = {}
    for heading, numbers in ranked.items():
        chosen = kept.of_different_scenes(numbers[:_CANDIDATES], _SHOWN, len(dataset))
        figures = [_figure(dataset, number, sides, scores[:, number]) for number in chosen]
        galleries |= {heading: figures} if figures else {}
    return {"galleries": galleries, "classes": dataset.table.classes}


def _open_images(stored: Stored) -> SegmentationDataset:
    """Open the images that were evaluated; raises InputError if they are not known or moved."""
    name, root, split = (stored.settings.get(key) for key in ("dataset", "data", "split"))
    if not (isinstance(name, str) and isinstance(root, str) and isinstance(split, str)):
        raise InputError(f"{stored.folder} does not name its images")
    dataset = create_dataset(name, root, split, classes_unless_named(name, root, stored.classes))
    if [pair.name for pair in dataset.pairs] != stored.images:
        raise InputError(f"the images in {root} are no longer those that were evaluated")
    return dataset


def _predictions_of(stored: Stored) -> Predictions:
    """Return what gives the labels of an image and its name: saved files, or else the network.

    Raises InputError if there is neither.
    """
    if (stored.folder / "index").is_dir():
        return lambda _, name: read_mask(stored.folder / storable(f"index/{name}.png"))
    remedy = "evaluate it with --save index and compare again"
    if not isinstance(checkpoint := stored.how.get("checkpoint"), str):
        raise InputError(f"{stored.folder} has no predictions; {remedy}")
    predictor = Predictor(checkpoint)
    if predictor.protocol.description != stored.protocol:
        raise InputError(f"{stored.folder} is not by the protocol of its network; {remedy}")
    return lambda image, _: predictor.batch([image])[0].labels


def _figure(
    dataset: SegmentationDataset,
    number: int,
    sides: dict[str, tuple[Stored, Predictions]],
    scores: NDArray[np.float64],
) -> dict[str, Any]:
    """Show an image under the predictions of both, side by side."""
    image, truth, name = dataset[number]
    table, panels = dataset.table, {}
    for (side, (stored, predict)), score in zip(sides.items(), scores, strict=True):
        labels = predict(image, name)
        excluded = [table.names.index(one) for one in stored.excluded]
        found = _mean_iou(truth, labels, table.num_classes, excluded)
        if not abs(found - score) <= _TOLERANCE:
            raise InputError(
                f"{stored.folder} scored {score:.3f} on {name}, but the network now scores "
                f"{found:.3f}; evaluate it anew"
            )
        panels[side] = example_layers(Example(name, image, truth, labels), table)
    caption = f"{name}: A {scores[0]:.3f}, B {scores[1]:.3f}, {points(scores[1] - scores[0])}"
    return figure_of_layers(caption, image, panels)


def _mean_iou(
    truth: NDArray[Any], labels: NDArray[Any], num_classes: int, excluded: Sequence[int]
) -> float:
    """Return the mean IoU of an image; NaN if the sizes differ."""
    if labels.shape != truth.shape:
        return np.nan
    counted: dict[int, NDArray[Any]] = {  # num_classes is not counted
        RIGHT: np.where(truth == labels, truth, num_classes),
        TRUTH: truth,
        PREDICTED: np.where(truth < num_classes, labels, num_classes),
    }
    counts = np.stack([count_labels(counted[row], num_classes) for row in range(3)])
    return float(image_mean_iou(counts, excluded))
