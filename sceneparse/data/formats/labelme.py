"""LabelMe's JSON files: shapes drawn by hand, a file per image."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sceneparse.data.formats.shared.classes import Classes, choose_classes
from sceneparse.data.formats.shared.drawing import blank_mask, polygon_mask
from sceneparse.data.formats.shared.outlines import json_files, outline_of
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import ImageFinder, Item, Source
from sceneparse.data.labels import Labels
from sceneparse.errors import InputError
from sceneparse.files import read_json

_KEYS = frozenset({"shapes", "imagePath"})


def recognise(source: Path) -> str | None:
    """Recognise JSON files with shapes and imagePath."""
    found = [path for path in json_files(source) if outline_of(path).keys >= _KEYS]
    return f"{found[0].name} holds shapes and imagePath" if found else None


def read(
    source: Path, skipped: Skipped, *, images: Path | None = None, classes: Path | None = None
) -> Source:
    """Read LabelMe's JSON files: polygons, rectangles and circles, later ones on top."""
    finder = ImageFinder(images or (source if source.is_dir() else source.parent))
    paths = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    contents = [(path, read_json(path)) for path in paths]
    labels = sorted({shape["label"] for _, content in contents for shape in content["shapes"]})
    chosen = choose_classes(labels, classes)
    items = []
    for path, content in contents:
        image = finder.find(content["imagePath"], path)
        items.append(Item(image, finder.name_of(image), partial(_draw, path, content, chosen)))
    return Source(chosen.names, items, skipped, chosen.colors)


def _draw(path: Path, content: Mapping[str, Any], classes: Classes) -> Labels:
    height, width = content["imageHeight"], content["imageWidth"]
    mask = blank_mask(height, width, classes.index("background"))
    for shape in content["shapes"]:
        label, points = classes.index(shape["label"]), np.array(shape["points"], dtype=float)
        kind = shape.get("shape_type", "polygon")
        if kind != "polygon":
            raise InputError(f"{path}: a {kind} has no area; only polygons")
        mask[polygon_mask(points, height, width)] = label
    return mask
