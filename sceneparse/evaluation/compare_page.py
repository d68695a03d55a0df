"""Compute what the page about two compared evaluations shows: the images that differ most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset, classes_unless_named, create_dataset
from sceneparse.data.reading import read_mask
from sceneparse.errors import InputError
from sceneparse.evaluation.result import Stored, image_mean_iou
from sceneparse.report.pages import example_layers, figure_of_layers
from sceneparse.report.pictures import Example
from sceneparse.report.tables import Table, four_digits, points
from sceneparse.training.examples import KeptExamples

if TYPE_CHECKING:
    from sceneparse.evaluation.compare import Comparison

# Images of each kind in the table and as pictures, and of how many the pictures are chosen.
_LISTED, _SHOWN, _CANDIDATES = 20, 4, 24
_GAIN, _LOSE = "Images that gain most", "Images that lose most"


def image_values(comparison: Comparison) -> dict[str, Any]:
    """Return tables, pictures and notes about the images that gain and lose most.

    Pictures need the predictions: `sceneparse evaluate --save index` writes them.
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
        pictures = _pictures(comparison, ranked, scores)
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
    comparison: Comparison, ranked: dict[str, list[int]], scores: NDArray[np.float64]
) -> dict[str, Any]:
    """Return galleries and classes; raises InputError if images or predictions are missing."""
    sides = {"A": comparison.first, "B": comparison.second}
    for name, side in sides.items():
        if not (side.folder / "index").is_dir():
            raise InputError(
                f"{name} has no predictions; evaluate it with --save index and compare again"
            )
    dataset = _open_images(comparison.first)
    kept = KeptExamples(dataset, [])
    galleries = {}
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


def _figure(
    dataset: SegmentationDataset, number: int, sides: dict[str, Stored], scores: NDArray[np.float64]
) -> dict[str, Any]:
    """Show an image under the predictions of both, side by side."""
    image, truth, name = dataset[number]
    panels = {}
    for side, stored in sides.items():
        path = stored.folder / "index" / f"{name}.png"
        labels = read_mask(path)
        if labels.shape != truth.shape:
            raise InputError(f"'{path}' is {labels.shape}, its mask {truth.shape}")
        panels[side] = example_layers(Example(name, image, truth, labels), dataset.table)
    caption = f"{name}: A {scores[0]:.3f}, B {scores[1]:.3f}, {points(scores[1] - scores[0])}"
    return figure_of_layers(caption, image, panels)
