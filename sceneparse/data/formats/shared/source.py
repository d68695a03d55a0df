"""What all formats share: a source of images, classes and masks, and how masks are drawn."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Color, Labels, ignore_index_for, require_name
from sceneparse.data.pairing import Pair, pair_folders
from sceneparse.data.reading import MAX_IMAGE_PIXELS
from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import read_text

# OpenCV visits every row of a shape, even outside the image.
_MAX_COORDINATE = 1_000_000
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Item:
    """One image of a source, and how to draw its mask of train ids (H, W)."""

    image: Path
    draw: Callable[[], Labels]

    def mask(self) -> Labels:
        """Draw the mask; raises InputError naming the image."""
        with refusing(self.image, "its mask cannot be drawn"):
            return self.draw()


@dataclass(frozen=True)
class Source:
    """A dataset in another format: its classes, images, and colours if it has its own."""

    classes: Sequence[str]
    items: Sequence[Item]
    colors: Sequence[Color] | None = None

    def __post_init__(self) -> None:
        for name in self.classes:
            require_name(name)

    @property
    def ignore_index(self) -> int:
        """The label of pixels that belong to no class."""
        return ignore_index_for(len(self.classes))


def blank_mask(height: int, width: int, label: int) -> Labels:
    """Return a mask (H, W) of one label; raises ValueError for a size that no image has."""
    if not (min(height, width) > 0 and height * width <= MAX_IMAGE_PIXELS):
        raise ValueError(f"no image is of {width}x{height} pixels")
    return np.full((height, width), label, np.uint16)


def fill_polygon(mask: Labels, points: NDArray[np.float64], label: int) -> None:
    """Draw a polygon of points x, y (N, 2) into a mask; ValueError for points far outside."""
    require_near(points)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], label)


def require_near(numbers: NDArray[np.float64]) -> None:
    """Raise ValueError for coordinates that are not finite, or far outside any image."""
    if not (np.abs(numbers) <= _MAX_COORDINATE).all():  # false for NaN too
        raise ValueError("a shape lies far outside the image")


def labels_of_codes(
    picture: NDArray[np.uint8], label_of: Mapping[int, int]
) -> tuple[Labels, dict[int, int]]:
    """Return the label of every pixel by its code, red << 16 | green << 8 | blue.

    Returns the labels (H, W), and the number of pixels per code that has no label.
    """
    lookup = np.full(2**24, -1, np.int32)
    lookup[list(label_of.keys())] = list(label_of.values())
    labels = np.empty(picture.shape[:2], np.uint16)
    unknown: Counter[int] = Counter()
    for top in range(0, len(picture), _ROWS_AT_ONCE):
        band = picture[top : top + _ROWS_AT_ONCE].astype(np.uint32)
        codes = band[..., 0] << 16 | band[..., 1] << 8 | band[..., 2]
        found = lookup[codes]
        labels[top : top + _ROWS_AT_ONCE] = found
        if found.min(initial=0) < 0:
            values, counts = np.unique(codes[found < 0], return_counts=True)
            unknown.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return labels, unknown


def coco_classes(content: Mapping[str, Any]) -> tuple[list[str], dict[int, int]]:
    """Return the names of COCO's categories by id, and the class index of each category id."""
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    names = [category["name"] for category in categories]
    return names, {category["id"]: k for k, category in enumerate(categories)}


def pair_by_name(images: Path, masks: Path) -> list[Pair]:
    """Pair files by name, skipping images without a mask; InputError for a mask without image."""
    pairs = [pair for pair in pair_folders(images, masks).pairs if pair.mask.is_file()]
    unpaired = [pair.mask.name for pair in pairs if not pair.image.is_file()]
    if unpaired:
        raise InputError(f"{len(unpaired)} masks have no image in {images}: {first_few(unpaired)}")
    return pairs


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file whose rows fill these columns; raises InputError if they do not."""
    text = read_text(path)
    with refusing(path, "cannot be read as CSV"):
        rows = list(csv.DictReader(text.splitlines()))
    if not rows or any(row.get(column) in (None, "") for row in rows for column in columns):
        raise InputError(f"{path}: expected the columns {','.join(columns)}, all filled")
    return rows
