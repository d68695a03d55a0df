"""Pictures of a training run: its augmented crops, and its worst images."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sceneparse.data.labels import LabelTable
from sceneparse.report.pictures import Example, Picture, example_grid, overlay

_GAP = 6
_CROP_WIDTH = 300
_COLUMNS = 4
_TEXT_SIZE = 15


def augmented_grid(crops: Sequence[tuple[Picture, NDArray[Any]]], table: LabelTable) -> Picture:
    """Draw training crops of one size under their masks, above a legend of their classes.

    `crops`: images (H, W, 3) and train ids (H, W), as the network gets them.
    """
    height, width = crops[0][1].shape
    size = (_CROP_WIDTH, max(round(height * _CROP_WIDTH / width), 1))
    columns = min(_COLUMNS, len(crops))
    rows = -(-len(crops) // columns)
    step = size[1] + _GAP, size[0] + _GAP
    image = np.full((rows * step[0] - _GAP, columns * step[1] - _GAP, 3), 255, np.uint8)
    labels = np.full(image.shape[:2], table.ignore_index, crops[0][1].dtype)
    shrink = cv2.INTER_AREA if size[0] < width else cv2.INTER_LINEAR
    for number, (crop, mask) in enumerate(crops):
        row, column = divmod(number, columns)
        top, left = row * step[0], column * step[1]
        place = slice(top, top + size[1]), slice(left, left + size[0])
        image[place] = cv2.resize(crop, size, interpolation=shrink)
        labels[place] = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    return overlay(image, labels, table)


def worst_grid(worst: Sequence[tuple[float, Example]], table: LabelTable) -> Picture:
    """Draw image, truth, prediction and errors of some images, below their names and scores."""
    grid = example_grid([example for _, example in worst], table.names, table.colors)
    lines = ["The validation images with the lowest mean IoU, from top to bottom:"]
    lines += [f"{number}. {e.name}: {score:.3f}" for number, (score, e) in enumerate(worst, 1)]
    text = "\n".join(lines).encode(errors="replace").decode()
    step = _TEXT_SIZE + 6
    strip = Image.new("RGB", (grid.shape[1], len(lines) * step + _GAP), "white")
    font = ImageFont.load_default(_TEXT_SIZE)
    ImageDraw.Draw(strip).multiline_text((8, _GAP), text, fill="black", font=font, spacing=6)
    return np.concatenate([np.asarray(strip), grid])
