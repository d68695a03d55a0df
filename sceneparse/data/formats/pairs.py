"""A CSV file that lists images and their masks."""

from functools import partial
from pathlib import Path

import numpy as np

from sceneparse.data.formats.shared.source import Item, Source, read_table
from sceneparse.data.reading import read_mask
from sceneparse.files import inside


def read(table: Path, root: Path | None = None) -> Source:
    """Read a CSV with the columns image,mask (relative to the CSV); masks hold 0..K-1 and 255.

    All files must be inside `root`, by default the CSV's folder.
    """
    rows = read_table(table, ("image", "mask"))
    files = [
        [inside(table.parent, row[column], table, root=root) for column in ("image", "mask")]
        for row in rows
    ]
    items = [Item(image, partial(read_mask, mask)) for image, mask in files]
    masks = (item.mask() for item in items)
    largest = [int(mask[mask != np.iinfo(mask.dtype).max].max(initial=0)) for mask in masks]
    return Source([f"class_{k}" for k in range(max([1, *largest]) + 1)], items)
