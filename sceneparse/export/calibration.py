"""The images that int8 is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.datasets import classes_unless_named, create_dataset, spread
from sceneparse.data.reading import read_image


def calibration_images(
    root: str | Path, split: str, meta: Mapping[str, Any], count: int
) -> list[NDArray[np.uint8]]:
    """Read at most `count` images (H, W, 3), evenly spread over a split.

    The data folder has the layout of the model's own, which `meta` names. Raises InputError.
    """
    name = meta.get("data", {}).get("dataset", "folder")
    classes = classes_unless_named(name, root, meta["classes"])
    pairs = create_dataset(name, root, split, classes, complete=False).pairs
    return [read_image(pairs[index].image) for index in spread(len(pairs), count)]
