"""Supervisely's projects: meta.json, and DATASET/ann/IMAGE.json beside DATASET/img/IMAGE."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.decoding import open_image
from sceneparse.data.formats.shared.canvas import Canvas
from sceneparse.data.formats.shared.classes import Classes, choose_classes, class_name_at
from sceneparse.data.formats.shared.drawing import require_near
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.outlines import json_files, outline_of
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.formats.shared.splits import split_named
from sceneparse.data.labels import Labels
from sceneparse.errors import InputError, refusing
from sceneparse.files import read_json

# Bytes of an unpacked bitmap: a PNG file of one bit per pixel.
_MAX_BITMAP = 2**26


@dataclass(frozen=True)
class _Shape:
    """A shape: where it is in the files, its class, kind and content."""

    place: str
    label: str
    kind: str
    content: Mapping[str, Any]


def recognise(source: Path) -> str | None:
    """Recognise meta.json with classes, or JSON files in folders ann, with size and objects."""
    if outline_of(source / "meta.json").inner.get("classes", frozenset()) >= {"title", "shape"}:
        return "meta.json lists classes with title and shape"
    found = [p for p in json_files(source) if outline_of(p).keys >= {"size", "objects"}]
    in_ann = [path for path in found if path.parent.name == "ann"]
    return f"{in_ann[0].name} holds size and objects" if in_ann else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read polygons, bitmaps and rectangles, later ones on top; other shapes are skipped.

    Datasets called train, val or test are splits.
    """
    meta = source / "meta.json"
    named = read_json(meta)["classes"] if meta.is_file() else []
    labels = [class_name_at(row["title"], f"{meta}: class") for row in named]
    paths = sorted(source.glob("**/ann/**/*.json"))
    if not paths:
        raise InputError(f"'{source}' holds no ann/*.json; give the folder of the project")
    finder = ImageFinder(images or source)
    skipped = Skipped()
    found = [(path, *_read_file(path, skipped)) for path in paths]
    labels += [shape.label for _, _, shapes in found for shape in shapes]
    chosen = choose_classes(labels, classes)
    items = []
    for path, size, shapes in found:
        image = _image_of(path, source, finder)
        split = split_named(path.parent.parent.name)
        name = finder.name_of(image).replace("/img/", "/").removeprefix("img/")  # DATASET/NAME
        items.append(Item(image, name, partial(_draw, size, shapes, chosen), split))
    return Source(chosen.names, items, skipped, chosen.colors)


def _image_of(path: Path, source: Path, finder: ImageFinder) -> Path:
    """Return the image of ann/NAME.jpg.json or, in old projects, ann/NAME.json: below img."""
    folder = f"/{path.relative_to(source).parent.as_posix()}/"
    beside = PurePath("/img/".join(folder.rsplit("/ann/", 1)).strip("/"))
    try:
        return finder.find(path.stem, path, beside)
    except InputError:
        image = finder.find_stem(path.stem, beside)
        if image is None:
            raise
        return image


def _read_file(path: Path, skipped: Skipped) -> tuple[tuple[int, int], list[_Shape]]:
    content = read_json(path)
    with refusing(path, "not valid supervisely"):
        size = int(content["size"]["height"]), int(content["size"]["width"])
        return size, _shapes(path, content["objects"], skipped)


def _shapes(path: Path, objects: Sequence[Mapping[str, Any]], skipped: Skipped) -> list[_Shape]:
    shapes = []
    for number, content in enumerate(objects):
        place = f"{path}: object {content.get('id', number)}"
        # Old projects have no geometryType, and null for the kind that a shape is not.
        kind = content.get("geometryType") or ("bitmap" if content.get("bitmap") else "polygon")
        if kind in _DRAW:
            label = class_name_at(content["classTitle"], place)
            shapes.append(_Shape(place, label, kind, content))
        else:
            skipped.add(f"shapes that are not drawn ({kind})", place)
    return shapes


def _draw(size: tuple[int, int], shapes: Sequence[_Shape], classes: Classes) -> Labels:
    canvas = Canvas(*size, classes.index("background"))
    for shape in shapes:
        with refusing(shape.place, f"its {shape.kind} cannot be drawn"):
            _DRAW[shape.kind](canvas, shape, classes.index(shape.label))
    return canvas.mask


def _points(canvas: Canvas, points: Any) -> NDArray[np.int32]:  # noqa: ANN401 - JSON
    """Return points as pixels; Supervisely rounds them down."""
    numbers = np.array(points, np.float64)
    if len(numbers) and numbers.shape[1:] != (2,):
        raise ValueError("its points are no list of x, y")
    require_near(numbers, *canvas.size)
    return np.asarray(np.floor(numbers), np.int32)


def _polygon(canvas: Canvas, shape: _Shape, label: int) -> None:
    """Fill a polygon with holes as Supervisely does: points are pixels, edges are inside."""
    exterior = _points(canvas, shape.content["points"]["exterior"])
    holes = [_points(canvas, hole) for hole in shape.content["points"].get("interior") or []]
    if len(exterior) < 3:
        raise ValueError(f"a polygon of {len(exterior)} points")
    mask = np.zeros(canvas.size, np.uint8)
    cv2.fillPoly(mask, [exterior], 1)
    if holes:
        cv2.fillPoly(mask, holes, 0)
    canvas.region(mask.astype(bool), 0, 0, label)


def _rectangle(canvas: Canvas, shape: _Shape, label: int) -> None:
    """Fill a rectangle of two opposite corners, which are pixels inside."""
    corners = _points(canvas, shape.content["points"]["exterior"])
    if len(corners) != 2:
        raise ValueError(f"a rectangle of {len(corners)} points")
    height, width = canvas.size
    # Cut at the image, because it may be a hundred times as large.
    left, top = np.maximum(corners.min(axis=0), 0).tolist()
    right, bottom = np.minimum(corners.max(axis=0) + 1, [width, height]).tolist()
    if left < right and top < bottom:
        canvas.region(np.ones((bottom - top, right - left), bool), left, top, label)


def _bitmap(canvas: Canvas, shape: _Shape, label: int) -> None:
    """Unpack a PNG file; its opaque pixels, or those that are not 0, are the shape."""
    packed = base64.b64decode(shape.content["bitmap"]["data"])
    with suppress(zlib.error):  # old projects have a plain PNG file
        packed = zlib.decompressobj().decompress(packed, _MAX_BITMAP)
    with open_image(Path(f"{shape.place}, its bitmap"), packed) as picture:
        alpha = "A" in picture.getbands() or "transparency" in picture.info
        bits = np.asarray(picture.convert("RGBA").getchannel("A") if alpha else picture)
    left, top = (int(value) for value in shape.content["bitmap"]["origin"])
    require_near(np.array([left, top]), *canvas.size)
    pixels = np.asarray(bits if bits.ndim == 2 else bits.any(-1), bool)
    canvas.region(pixels, left, top, label)


_DRAW: dict[str, Callable[[Canvas, _Shape, int], None]] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "bitmap": _bitmap,
}
