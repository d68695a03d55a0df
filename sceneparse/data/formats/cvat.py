"""CVAT's XML "CVAT for images 1.1": polygons, masks, boxes and ellipses by z-order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from sceneparse.data.formats.shared.canvas import Canvas
from sceneparse.data.formats.shared.classes import Classes, choose_classes
from sceneparse.data.formats.shared.drawing import require_near
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.formats.shared.splits import split_named
from sceneparse.data.labels import Labels
from sceneparse.errors import InputError, refusing
from sceneparse.files import read_start, read_text

# <annotation> without s is Pascal VOC's file of boxes.
_ROOT = re.compile(r"<annotations>\s*<version>")

Shape = Mapping[str, str]


def recognise(source: Path) -> str | None:
    """Recognise XML whose root is annotations with a version."""
    found = _xml_files(source)
    return f"{found[0].name} is CVAT's XML" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read an XML file, or the one in a folder; higher z-order is on top, then later shapes.

    Points, lines and tags have no area and are skipped. The subsets of a project are splits.
    """
    path = source
    if source.is_dir():
        found = _xml_files(source)
        if len(found) != 1:
            raise InputError(f"'{source}' holds {len(found)} XML files of CVAT; give one of them")
        path = found[0]
    root = _parse(path)
    if root.find("track") is not None:
        raise InputError(f"{path}: tracks of a video; export the task as 'CVAT for images 1.1'")
    entries = root.findall("image")
    labels = [str(name.text) for name in root.findall("meta//label/name")]
    drawn = [shape.get("label", "") for entry in entries for shape in entry if shape.tag in _DRAW]
    chosen = choose_classes([*labels, *drawn], classes)
    beside = path.parent / "images"
    finder = ImageFinder(images or (beside if beside.is_dir() else path.parent))
    items, skipped = [], Skipped()
    for entry in entries:
        subset = entry.get("subset", "")
        image = finder.find(f"{subset}/{entry.get('name', '')}", path)
        shapes = [(shape.tag, dict(shape.attrib)) for shape in entry]
        draw = partial(_draw, path, dict(entry.attrib), shapes, chosen, skipped)
        items.append(Item(image, finder.name_of(image), draw, split_named(subset)))
    return Source(chosen.names, items, skipped, chosen.colors)


def _xml_files(source: Path) -> list[Path]:
    """Return the files of CVAT in a folder, or the file itself."""
    paths = sorted(source.glob("*.xml")) if source.is_dir() else [source]
    files = [path for path in paths if path.suffix.lower() == ".xml" and path.is_file()]
    return [path for path in files if _ROOT.search(read_start(path, 4096))]


def _parse(path: Path) -> ElementTree.Element:
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: it defines entities, which CVAT never writes; export it again")
    with refusing(path, "cannot be read as XML"):
        return ElementTree.fromstring(text)  # noqa: S314 - without entities


def _draw(
    path: Path,
    entry: Mapping[str, str],
    shapes: Sequence[tuple[str, Shape]],
    classes: Classes,
    skipped: Skipped,
) -> Labels:
    canvas = Canvas(int(entry["height"]), int(entry["width"]), classes.index("background"))
    for tag, shape in sorted(shapes, key=lambda pair: int(pair[1].get("z_order", 0))):
        place = f"{path}: {tag} of '{shape.get('label')}' in image {entry.get('name')}"
        if tag not in _DRAW:
            skipped.add(f"shapes without area ({tag})", place)
            continue
        with refusing(place, "it cannot be drawn"):
            _DRAW[tag](canvas, shape, classes.index(shape["label"]))
    return canvas.mask


def _polygon(canvas: Canvas, shape: Shape, label: int) -> None:
    points = [list(map(float, point.split(","))) for point in shape["points"].split(";")]
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points")
    canvas.polygon(np.array(points), label)


def _box(canvas: Canvas, shape: Shape, label: int) -> None:
    """Fill a box, turned clockwise about its centre."""
    left, top, right, bottom = (float(shape[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    angle = math.radians(float(shape.get("rotation", 0)))
    if angle:
        center = np.array([(left + right) / 2, (top + bottom) / 2])
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        corners = center + (corners - center) @ turn.T
    canvas.polygon(corners, label)


def _ellipse(canvas: Canvas, shape: Shape, label: int) -> None:
    """Fill an ellipse as CVAT does: OpenCV's, with centre and axes rounded."""
    values = [float(shape[key]) for key in ("cx", "cy", "rx", "ry")]
    require_near(np.array(values), *canvas.size)
    x, y, across, down = (round(value) for value in values)
    mask, angle = np.zeros(canvas.size, np.uint8), float(shape.get("rotation", 0))
    cv2.ellipse(mask, (x, y), (across, down), angle, 0, 360, 1, thickness=-1)
    canvas.region(mask.astype(bool), 0, 0, label)


def _runs(canvas: Canvas, shape: Shape, label: int) -> None:
    """Decode runs of zeros and ones along the rows of a box."""
    left, top, columns, rows = (int(shape[key]) for key in ("left", "top", "width", "height"))
    runs = np.array([int(run) for run in shape["rle"].split(",")])
    height, width = canvas.size
    if left < 0 or top < 0 or left + columns > width or top + rows > height:
        raise ValueError(f"a box {left},{top} {columns}x{rows} outside the image {width}x{height}")
    if runs.min() < 0 or columns <= 0 or rows <= 0 or runs.sum() > rows * columns:
        raise ValueError(f"runs of {runs.sum()} pixels for a box of {columns}x{rows}")
    box = np.zeros(rows * columns, bool)
    box[: runs.sum()] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    canvas.region(box.reshape(rows, columns), left, top, label)


_DRAW: dict[str, Callable[[Canvas, Shape, int], None]] = {
    "polygon": _polygon,
    "box": _box,
    "ellipse": _ellipse,
    "mask": _runs,
}
