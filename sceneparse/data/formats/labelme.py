"""LabelMe's JSON files: shapes drawn by hand, a file per image."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sceneparse.data.formats.shared.source import (
    Item,
    Source,
    blank_mask,
    fill_polygon,
    require_near,
)
from sceneparse.data.labels import Labels
from sceneparse.errors import InputError
from sceneparse.files import inside, read_json


def read(annotations: Path, root: Path | None = None) -> Source:
    """Read LabelMe's JSON files: polygons, rectangles and circles, later ones on top.

    The images must be inside `root`, by default the folder of the JSON files.
    """
    contents = [(path, read_json(path)) for path in sorted(annotations.glob("*.json"))]
    names = sorted({shape["label"] for _, content in contents for shape in content["shapes"]})
    classes = [*(name for name in ("background",) if name not in names), *names]
    items = [
        Item(
            inside(annotations, content["imagePath"], path, root=root),
            partial(_draw_labelme, path, content, classes),
        )
        for path, content in contents
    ]
    return Source(classes, items)


def _draw_labelme(path: Path, content: Mapping[str, Any], classes: Sequence[str]) -> Labels:
    mask = blank_mask(content["imageHeight"], content["imageWidth"], classes.index("background"))
    for shape in content["shapes"]:
        label, points = classes.index(shape["label"]), np.array(shape["points"], dtype=float)
        kind = shape.get("shape_type", "polygon")
        if kind == "rectangle":
            (left, top), (right, bottom) = points.min(0), points.max(0)
            points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        if kind in {"polygon", "rectangle"}:
            fill_polygon(mask, points, label)
        elif kind == "circle":
            require_near(points)
            radius = float(np.linalg.norm(points[1] - points[0]))
            center = (round(points[0, 0]), round(points[0, 1]))
            cv2.circle(mask, center, round(radius), label, -1)
        else:
            raise InputError(f"{path}: a {kind} has no area; only polygons, rectangles, circles")
    return mask
