"""COCO's instance annotations: JSON files of polygons and run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sceneparse.data.formats.shared.classes import Classes, choose_classes
from sceneparse.data.formats.shared.coco_files import (
    CocoFile,
    CocoImage,
    coco_paths,
    id_text,
    read_coco,
)
from sceneparse.data.formats.shared.drawing import coco_runs, paint_runs
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import Labels
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError, refusing


def recognise(source: Path) -> str | None:
    """Recognise JSON with images, annotations and categories, but no panoptic segments."""
    found = coco_paths(source, panoptic=False)
    return f"{found[0].name} lists images, annotations and categories" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read COCO files; several are splits. Small instances cover large ones, by drawn area."""
    files = list(read_coco(source, images, panoptic=False))
    names = [name for file in files for name in file.category_names.values()]
    chosen = choose_classes(names, classes)
    skipped = Skipped()
    items = [item for file in files for item in _items(file, chosen, skipped)]
    return Source(chosen.names, items, skipped, chosen.colors)


def _items(file: CocoFile, classes: Classes, skipped: Skipped) -> list[Item]:
    shapes: dict[str, list[Mapping[str, Any]]] = {key: [] for key in file.images}
    for annotation in file.annotations:
        file.image_of(annotation)
        file.category_of(annotation, annotation)
        if annotation.get("segmentation"):
            shapes[id_text(annotation["image_id"])].append(annotation)
        else:
            skipped.add(
                "annotations without a segmentation", f"{file.path}: {annotation.get('id')}"
            )
    return [
        Item(i.path, i.name, partial(_draw, file, i, shapes[key], classes, skipped), i.split)
        for key, i in file.images.items()
    ]


def _draw(
    file: CocoFile,
    image: CocoImage,
    annotations: Sequence[Mapping[str, Any]],
    classes: Classes,
    skipped: Skipped,
) -> Labels:
    height, width = image.entry.get("height"), image.entry.get("width")
    if not height or not width:
        height, width = image_size(image.path)
    height, width = int(height), int(width)
    regions, labels = [], []
    for annotation in annotations:
        place = f"{file.path}: annotation {annotation.get('id')}"
        with refusing(place, "its segmentation cannot be drawn"):
            segmentation = _polygons(annotation["segmentation"], place, skipped)
            if segmentation:
                regions.append(coco_runs(segmentation, height, width))
                labels.append(classes.index(file.category_of(annotation, annotation)))
    return paint_runs(regions, labels, height, width, classes.index("background"))


def _polygons(segmentation: Any, place: str, skipped: Skipped) -> Any:  # noqa: ANN401 - JSON
    """Return run lengths as they are, and polygons as a list of lists of x, y, ..."""
    if isinstance(segmentation, Mapping):
        return segmentation
    if not isinstance(segmentation, list):
        raise InputError(f"{place}: expected polygons or run lengths, got '{segmentation}'")
    if not isinstance(segmentation[0], list) or all(len(part) == 2 for part in segmentation):
        segmentation = [segmentation]  # a single polygon: x, y, ... or points
    polygons = [_numbers(polygon, place) for polygon in segmentation]
    if short := [polygon for polygon in polygons if len(polygon) < 6]:
        skipped.add("polygons of fewer than three points", place, len(short))
    return [polygon for polygon in polygons if len(polygon) >= 6]


def _numbers(polygon: Any, place: str) -> list[Any]:  # noqa: ANN401 - JSON
    """Return a polygon, a list of x, y, ... or of points, as x, y, ...; raises InputError."""
    if not isinstance(polygon, list):
        raise InputError(f"{place}: expected a polygon x, y, ..., got '{polygon}'")
    if polygon and isinstance(polygon[0], list):
        polygon = [number for point in polygon for number in point]
    if len(polygon) == 4:
        raise InputError(
            f"{place}: a segmentation of four numbers {polygon} is no polygon; if it is a box, "
            "write its four corners"
        )
    if len(polygon) % 2:
        raise InputError(f"{place}: a polygon of {len(polygon)} numbers, expected x, y, ...")
    return list(polygon)
