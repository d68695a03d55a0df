"""VGG Image Annotator (VIA) 1 and 2: its projects, and its exports as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.formats.shared.canvas import Canvas
from sceneparse.data.formats.shared.classes import (
    Classes,
    choose_classes,
    class_name_at,
    read_classes,
)
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.outlines import json_files, outline_of
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.formats.shared.splits import split_in
from sceneparse.data.labels import Labels
from sceneparse.data.pairing import find_images
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import read_json, read_start, read_text

_PROJECT = "_via_img_metadata"
_ENTRY_KEYS = frozenset({"filename", "regions"})
_CSV_COLUMN = "region_shape_attributes"
_WITHOUT_AREA = {"point", "polyline"}
# The class of regions in a file without any attributes, as people make it for one class.
_ONLY_CLASS = "object"

# The attributes of a shape, and those that the user gave it.
_Region = tuple[Mapping[str, Any], Mapping[str, Any]]


@dataclass(frozen=True)
class _Shape:
    """A region: corners x, y (N, 2), or centre, radii and angle (5,); and its attributes."""

    place: str
    numbers: NDArray[np.float64]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class _Picture:
    """An image with its shapes, and the split of the file that names it."""

    path: Path
    split: str | None
    shapes: Sequence[_Shape]


def recognise(source: Path) -> str | None:
    """Recognise JSON of images with regions, or a table with regions."""
    found = _via_files(source)
    return f"{found[0].name} holds regions of VIA" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read VIA's files; later regions are on top. Their class is the attribute that they have.

    Of several attributes it is the one whose values are all named by --classes.
    """
    root = source if source.is_dir() else source.parent
    files = _via_files(source) if source.is_dir() else [source]
    if not files:
        raise InputError(f"'{source}' holds no file of VIA")
    finder = ImageFinder(images or root)
    pictures, skipped = [], Skipped()
    for path in files:
        split = split_in(path, root) if len(files) > 1 else None
        for name, regions in _entries(path):
            image = finder.find(name, path, PurePath(path.parent.relative_to(root)))
            shapes = _shapes(regions, f"{path}: {name}", skipped)
            pictures.append(_Picture(image, split, list(shapes)))
    attribute = _attribute_of(pictures, source, classes)
    return _source(pictures, attribute, finder, classes, skipped)


def _source(
    pictures: Sequence[_Picture],
    attribute: str | None,
    finder: ImageFinder,
    classes: Path | None,
    skipped: Skipped,
) -> Source:
    labelled = [list(_labelled(picture.shapes, attribute, skipped)) for picture in pictures]
    chosen = choose_classes(sorted({label for found in labelled for _, label in found}), classes)
    items = [
        Item(p.path, finder.name_of(p.path), partial(_draw, p.path, shapes, chosen), p.split)
        for p, shapes in zip(pictures, labelled, strict=True)
    ]
    notes = [f"the class of a region is its attribute '{attribute}'"]
    if attribute is None:
        notes = [f"regions have no attributes: all are of the class '{_ONLY_CLASS}'"]
    if empty := labelled.count([]):
        notes.append(f"{empty} images have no regions: all their pixels are background")
    return Source(chosen.names, items, skipped, chosen.colors, notes)


def _via_files(source: Path) -> list[Path]:
    found = [path for path in json_files(source) if _is_via(path)]
    tables = find_images(source, {".csv"})[0] if source.is_dir() else [source]
    return sorted([*found, *(path for path in tables if _is_table(path))])


def _is_via(path: Path) -> bool:
    outline = outline_of(path)
    return _PROJECT in outline.keys or any(k >= _ENTRY_KEYS for k in outline.inner.values())


def _is_table(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    return _CSV_COLUMN in read_start(path, 4096).partition("\n")[0]


def _entries(path: Path) -> Iterator[tuple[str, Iterable[_Region]]]:
    """Yield the name of each image in a file, and its regions."""
    if path.suffix.lower() == ".csv":
        yield from _table_entries(path)
        return
    content = read_json(path)
    with refusing(path, "not a file of VIA"):
        entries = content.get(_PROJECT, content).values()
        options = _options(content)
    for entry in entries:
        with refusing(path, "not a file of VIA"):
            regions = entry["regions"]
            # A list since version 2.
            regions = regions.values() if isinstance(regions, Mapping) else regions
            found = [
                (r.get("shape_attributes"), _named(r.get("region_attributes") or {}, options))
                for r in regions
            ]
            yield entry["filename"], found


def _options(project: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return the names of an attribute's options by their ids, for those that have names."""
    attributes = project.get("_via_attributes", {}).get("region", {}) if _PROJECT in project else {}
    return {
        attribute: {key: name for key, name in entry["options"].items() if name}
        for attribute, entry in attributes.items()
        if entry.get("options")
    }


def _named(
    attributes: Mapping[str, Any], options: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Put the names of options in place of their ids, as VIA's own export to COCO does."""
    named: dict[str, Any] = {}
    for attribute, value in attributes.items():
        names = options.get(attribute, {})
        if isinstance(value, Mapping):
            named[attribute] = {names.get(key, key): checked for key, checked in value.items()}
        else:
            named[attribute] = names.get(value, value)
    return named


def _table_entries(path: Path) -> Iterator[tuple[str, Iterable[_Region]]]:
    """Yield what a CSV file holds: a row per region, or one for an image without regions."""
    found: dict[tuple[str, str], list[_Region]] = defaultdict(list)
    with refusing(path, "not a table of VIA"):
        # Version 1 writes #filename.
        table = csv.DictReader(io.StringIO(read_text(path).lstrip("#")))
        for row in table:
            regions = found[row["filename"], row["file_size"]]
            shape, attributes = json.loads(row[_CSV_COLUMN]), json.loads(row["region_attributes"])
            if shape:
                regions.append((shape, attributes))
    for (name, _), regions in found.items():
        yield name, regions


def _shapes(regions: Iterable[_Region], place: str, skipped: Skipped) -> Iterator[_Shape]:
    for number, (shape, attributes) in enumerate(regions):
        here = f"{place}, region {number}"
        with refusing(here, "cannot be read"):
            if shape["name"] in _WITHOUT_AREA:
                skipped.add(f"{shape['name']}s, which have no area", here)
                continue
            numbers = _numbers(shape)
            size = len(numbers) - 2 if numbers.ndim == 2 else numbers[2:4].min()
            if size <= 0:
                skipped.add(f"{shape['name']}s without area", here)
            else:
                yield _Shape(here, numbers, dict(attributes or {}))


def _numbers(shape: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the corners of a shape (N, 2), or centre, radii and angle of an ellipse (5,)."""
    kind = shape["name"]
    if kind == "polygon":
        points = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
        return np.array(list(points), np.float64).reshape(-1, 2)
    if kind == "rect":
        left, top = float(shape["x"]), float(shape["y"])
        right, bottom = left + float(shape["width"]), top + float(shape["height"])
        if right <= left or bottom <= top:
            return np.empty((0, 2))
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if kind == "circle":
        return np.array([shape[key] for key in ("cx", "cy", "r", "r")] + [0], np.float64)
    if kind == "ellipse":
        axes = [shape[key] for key in ("cx", "cy", "rx", "ry")]
        return np.array([*axes, shape.get("theta", 0)], np.float64)
    raise ValueError(f"unknown shape '{kind}'")


def _attribute_of(pictures: Sequence[_Picture], source: Path, classes: Path | None) -> str | None:
    """Return the attribute that names the classes; None if there are none. Raises InputError."""
    values: dict[str, set[str]] = defaultdict(set)
    for shape in (shape for picture in pictures for shape in picture.shapes):
        for attribute, value in shape.attributes.items():
            if label := _label(value, shape.place):
                values[attribute].add(class_name_at(label, shape.place))
    names = list(values)
    if classes is not None and len(names) > 1:
        given = read_classes(classes)
        names = [name for name in names if values[name] <= {*given.names, *given.aliases}]
    if len(names) == 1 or not values:
        return names[0] if names else None
    shown = "; ".join(f"{name} ({first_few(sorted(values[name]), 3)})" for name in values)
    raise InputError(
        f"{source}: regions have {len(values)} attributes, {shown}; give --classes with all values "
        "of the one that names the classes"
    )


def _label(value: object, place: str) -> object:
    """Return the value of an attribute: of checkboxes the one that is checked."""
    if not isinstance(value, Mapping):
        return value
    checked = [name for name, is_checked in value.items() if is_checked]
    if len(checked) > 1:
        raise InputError(
            f"{place}: {first_few(checked)} are checked; a region has one class: check one"
        )
    return checked[0] if checked else None


def _labelled(
    shapes: Sequence[_Shape], attribute: str | None, skipped: Skipped
) -> Iterator[tuple[_Shape, str]]:
    for shape in shapes:
        label = _ONLY_CLASS if attribute is None else shape.attributes.get(attribute)
        if label := _label(label, shape.place):
            yield shape, class_name_at(label, shape.place)
        else:
            skipped.add(f"regions without '{attribute}'", shape.place)


def _draw(image: Path, shapes: Sequence[tuple[_Shape, str]], classes: Classes) -> Labels:
    canvas = Canvas(*image_size(image), classes.index("background"))
    for shape, label in shapes:
        with refusing(shape.place, "it cannot be drawn"):
            canvas.outline(shape.numbers, classes.index(label))
    return canvas.mask
