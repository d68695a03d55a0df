"""LabelMe's JSON files: shapes drawn by hand, a file per image."""

from __future__ import annotations

import base64
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sceneparse.data.decoding import open_image
from sceneparse.data.formats.shared.classes import Classes, choose_classes, class_name_at
from sceneparse.data.formats.shared.drawing import require_near, require_size
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.outlines import json_files, outline_of
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.formats.shared.splits import split_in
from sceneparse.data.labels import Labels
from sceneparse.data.pairing import find_images
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError, refusing
from sceneparse.files import read_json

# One of these beside "shapes"; imagePath may be missing.
_IMAGE_KEYS = frozenset({"imagePath", "imageData", "imageHeight"})
# As labelme.utils.shape_to_mask draws them.
_LINE_WIDTH, _POINT_SIZE = 10, 5
# The fewest and most points of each kind. Tools beside labelme write rectangles of four corners.
_POINTS = {
    "polygon": (3, math.inf),
    "oriented_rectangle": (4, 4),
    "rotation": (4, 4),
    "rectangle": (2, 4),
    "circle": (2, 2),
    "line": (2, 2),
    "linestrip": (2, math.inf),
    "point": (1, 1),
    "mask": (2, 2),
}


@dataclass(frozen=True)
class _Shape:
    """A shape: its label, kind, points x, y (N, 2), and the PNG of a mask."""

    place: str
    label: str
    kind: str
    points: NDArray[np.float64]
    png: bytes


def recognise(source: Path) -> str | None:
    """Recognise JSON files with shapes and LabelMe's keys for the image."""
    found = [path for path in json_files(source) if _is_labelme(outline_of(path).keys)]
    return f"{found[0].name} holds shapes and imagePath" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read LabelMe's files; shapes are drawn in their order, as labelme's own export does."""
    root = source if source.is_dir() else source.parent
    finder = ImageFinder(images or root)
    # Only the shapes are kept, because each file may hold its whole image.
    found, skipped = [], Skipped()
    for path, content in _contents(source, skipped):
        shapes = list(_shapes(content["shapes"], path, skipped))
        found.append((path, _image_of(content, path, root, finder), _size(content, path), shapes))
    if not found:
        raise InputError(f"'{source}' holds no file of LabelMe, with the keys shapes and imagePath")
    labels = sorted({shape.label for *_, shapes in found for shape in shapes})
    chosen = choose_classes(labels, classes)
    items = []
    for path, image, size, shapes in found:
        draw, split = partial(_draw, image, size, shapes, chosen), split_in(path.parent, root)
        items.append(Item(image, finder.name_of(image), draw, split))
    return Source(chosen.names, items, skipped, chosen.colors)


def _is_labelme(keys: frozenset[str]) -> bool:
    return "shapes" in keys and bool(keys & _IMAGE_KEYS)


def _contents(source: Path, skipped: Skipped) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield LabelMe's files in a source and what they hold, one after the other."""
    for path in find_images(source, {".json"})[0] if source.is_dir() else [source]:
        content = read_json(path)
        if isinstance(content, dict) and _is_labelme(frozenset(content)):
            yield path, content
        else:
            skipped.add("JSON files that are not LabelMe's", path)


def _image_of(content: Mapping[str, Any], path: Path, root: Path, finder: ImageFinder) -> Path:
    """Return the image that a file names, or the one of the file's own name."""
    beside = PurePath(path.parent.relative_to(root))
    try:
        return finder.find(content.get("imagePath", ""), path, beside)
    except InputError as error:
        image = finder.find_stem(path.stem, beside)
        if image is None and content.get("imageData"):
            raise InputError(
                f"{error}; or take the copy in the JSON: `labelme_export_json {path}` writes it as "
                f"img.png; name that {path.stem}.png"
            ) from error
        if image is None:
            raise
        return image


def _size(content: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    """Return height and width, if the file gives them."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if height is None or width is None:
        return None
    with refusing(path, "imageHeight and imageWidth are no sizes"):
        return operator.index(height), operator.index(width)


def _shapes(shapes: object, path: Path, skipped: Skipped) -> Iterator[_Shape]:
    if not isinstance(shapes, list):
        raise InputError(f"{path}: its shapes are no list")
    for number, shape in enumerate(shapes):
        place = f"{path}: shape {number}"
        with refusing(place, "cannot be read"):
            label = class_name_at(shape["label"], place)
            kind = shape.get("shape_type") or "polygon"
            if kind not in _POINTS:
                known = ", ".join(_POINTS)
                raise InputError(f"{place}: unknown shape_type '{kind}'; known are {known}")
            points = np.array(shape["points"], np.float64)
            least, most = _POINTS[kind]
            if len(points) < least:
                skipped.add(f"{kind}s of too few points", place)
                continue
            if points.shape[1:] != (2,):
                raise ValueError("its points are no list of x, y")
            if len(points) > most or (kind, len(points)) == ("rectangle", 3):
                raise InputError(f"{place}: a {kind} of {len(points)} points")
            png = base64.b64decode(shape["mask"]) if kind == "mask" else b""
            yield _Shape(place, label, kind, points, png)


def _draw(
    image: Path, size: tuple[int, int] | None, shapes: Sequence[_Shape], classes: Classes
) -> Labels:
    height, width = size or image_size(image)
    require_size(height, width)
    wide = classes.ignore_index > 255
    mask = Image.new("I" if wide else "L", (width, height), classes.index("background"))
    for shape in shapes:
        with refusing(shape.place, f"its {shape.kind} cannot be drawn"):
            require_near(shape.points, height, width)
            _paint(mask, shape, classes.index(shape.label))
    return np.array(mask).astype(np.uint16 if wide else np.uint8)


def _paint(mask: Image.Image, shape: _Shape, label: int) -> None:
    """Draw a shape as labelme does, which leaves it to Pillow."""
    draw, points = ImageDraw.Draw(mask), shape.points
    corners = [(x, y) for x, y in points.tolist()]
    if shape.kind == "mask":
        _paint_png(mask, shape, label)
    elif shape.kind == "circle":
        _paint_disc(draw, points[0], math.dist(*corners), label)
    elif shape.kind == "point":
        _paint_disc(draw, points[0], _POINT_SIZE, label)
    elif shape.kind in {"line", "linestrip"}:
        draw.line(corners, fill=label, width=_LINE_WIDTH)
    elif shape.kind == "rectangle" and len(points) == 2:
        draw.rectangle([*points.min(axis=0), *points.max(axis=0)], outline=label, fill=label)
    else:
        draw.polygon(corners, outline=label, fill=label)


def _paint_disc(
    draw: ImageDraw.ImageDraw, center: NDArray[np.float64], radius: float, label: int
) -> None:
    draw.ellipse([*(center - radius), *(center + radius)], outline=label, fill=label)


def _paint_png(mask: Image.Image, shape: _Shape, label: int) -> None:
    """Paint the pixels of a PNG that are not 0; both corners of its box lie inside."""
    left, top, right, bottom = np.floor(shape.points).astype(int).ravel().tolist()
    box = (right - left + 1, bottom - top + 1)
    with open_image(Path(shape.place), shape.png) as picture:
        # Corners of a mask that was moved are fractions.
        if picture.size != box and (shape.points % 1 == 0).all():
            raise ValueError(f"a PNG of {picture.size} pixels in a box of {box}")
        pixels = np.array(picture, dtype=bool)
    if pixels.ndim != 2:
        raise ValueError("its PNG is coloured")
    mask.paste(label, (left, top), Image.fromarray(pixels))
