"""Write what was found in the labels: suspects.csv, and a page with crops of the first ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.report.pages import picture_uri, write_page
from sceneparse.report.pictures import Picture, overlay
from sceneparse.report.tables import write_lines
from sceneparse.suspects.search import Suspect

_HEADS = (
    *("rank", "image", "score", "labelled", "suggested", "x", "y", "width", "height", "pixels"),
    *("confidence", "label_quality", "mask"),
)
# Suspects with pictures on the page.
_SHOWN = 100
# Pixels around a region in its crop, at least; and of the long side of crops on the page.
_MARGIN, _SIDE = 24, 260


def suspect_rows(dataset: SegmentationDataset, suspects: Sequence[Suspect]) -> list[dict[str, Any]]:
    """Return a row per suspect, the highest score first: place, classes, probabilities, file."""
    names = dataset.table.names
    rows = []
    for rank, suspect in enumerate(suspects, start=1):
        pair, region = dataset.pairs[suspect.image], suspect.region
        values = (
            *(rank, pair.name, float(region.score)),
            *(names[region.given], names[region.suggested], *map(int, region.box)),
            *(int(region.pixels), float(region.confidence), float(region.quality)),
            str(pair.mask),
        )
        rows.append(dict(zip(_HEADS, values, strict=True)))
    return rows


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows` of suspect_rows as CSV, with two digits of scores and four of probabilities."""
    digits = {"score": 2, "confidence": 4, "label_quality": 4}
    lines = [[f"{v:.{digits[k]}f}" if k in digits else v for k, v in row.items()] for row in rows]
    write_lines(path, [_HEADS, *lines])


def write_suspects_page(
    path: Path,
    title: str,
    dataset: SegmentationDataset,
    suspects: Sequence[Suspect],
    facts: Mapping[str, str],
    device: torch.device | None = None,
) -> None:
    """Write the page: `facts` by heading, and crops of the first suspects.

    `device`: that the networks ran on.
    """
    shown = suspects[:_SHOWN]
    values = {
        "title": title,
        "facts": facts,
        "total": len(suspects),
        "classes": dataset.table.classes,
        "figures": [
            {**row, "pictures": _crops(dataset, suspect)}
            for row, suspect in zip(suspect_rows(dataset, shown), shown, strict=True)
        ],
    }
    write_page("suspects.html", path, values, device)


def _crops(dataset: SegmentationDataset, suspect: Suspect) -> dict[str, str]:
    """Encode a crop of the image, and the crop under its label and under the suggestion."""
    (image, mask, _), region = dataset[suspect.image], suspect.region
    x, y, width, height = region.box
    side = max(width, height) + 2 * max(_MARGIN, max(width, height) // 4)
    rows = _around(y, height, side, mask.shape[0])
    columns = _around(x, width, side, mask.shape[1])
    inside = np.zeros(mask.shape, bool)
    inside[y : y + height, x : x + width] = region.shape
    # Small crops are enlarged, so that the outline is thin beside them.
    factor = math.ceil(_SIDE / side)
    crop, labels, inside = (
        np.ascontiguousarray(a[rows, columns].repeat(factor, axis=0).repeat(factor, axis=1))
        for a in (image, mask, inside)
    )
    suggested = np.where(inside, region.suggested, labels).astype(labels.dtype)
    pictures = {
        "image": crop,
        "label": overlay(crop, labels, dataset.table, legend="none"),
        "suggestion": overlay(crop, suggested, dataset.table, legend="none"),
    }
    return {
        kind: picture_uri(_outlined(picture, inside), longest=_SIDE)
        for kind, picture in pictures.items()
    }


def _around(start: int, length: int, side: int, limit: int) -> slice:
    """Return `side` pixels with the middle of a stretch in their middle, inside of 0..limit-1."""
    first = max(min(start + length // 2 - side // 2, limit - side), 0)
    return slice(first, min(first + side, limit))


def _outlined(picture: Picture, inside: NDArray[np.bool_]) -> Picture:
    """Draw a white line on a black one around the pixels `inside` (H, W)."""
    shape = inside.astype(np.uint8)
    contours, _ = cv2.findContours(shape, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    result: Picture = picture.copy()
    # As wide on the page, whatever the size of the crop.
    line = 2 * max(round(max(shape.shape) / _SIDE), 1)
    for color, thickness in (((0, 0, 0), 2 * line), ((255, 255, 255), line)):
        cv2.drawContours(result, contours, -1, color, thickness)
    return result
