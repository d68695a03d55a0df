"""Label Studio's exports JSON and JSON_MIN: brush strokes, polygons, rectangles and ellipses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.formats.shared.bits import decode_alpha
from sceneparse.data.formats.shared.canvas import Canvas
from sceneparse.data.formats.shared.classes import Classes, choose_classes, class_name_at
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.outlines import json_files, outline_of
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import Labels
from sceneparse.data.pairing import IMAGE_SUFFIXES, find_images
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import read_json

# The keys of a task, with the older name of annotations, of an annotation in a storage, and of
# an item of JSON_MIN.
_KINDS = (
    frozenset({"data", "annotations"}),
    frozenset({"data", "completions"}),
    frozenset({"task", "result"}),
    frozenset({"annotation_id", "annotator"}),
)
# Label Studio puts this before the names of uploaded files.
_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")


@dataclass(frozen=True)
class _Region:
    """A region: corners x, y (N, 2), or centre, radii and angle (5,), or packed run lengths."""

    place: str
    label: str
    size: tuple[int, int]
    shape: NDArray[np.float64] | bytes


@dataclass(frozen=True)
class _Annotation:
    """What one person drew in one image, and what of it is skipped."""

    place: str
    image: str
    created: str
    regions: list[_Region]
    skipped: Skipped = field(default_factory=Skipped)


def recognise(source: Path) -> str | None:
    """Recognise JSON of tasks with data and annotations, or of items with annotators."""
    found = [path for path in json_files(source) if _is_label_studio(path)]
    return f"{found[0].name} holds tasks of Label Studio" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read tasks; of several annotations of an image the newest one that is not cancelled.

    Later regions are on top. Predictions are ignored.
    """
    finder = ImageFinder(images or (source if source.is_dir() else source.parent))
    newest: dict[Path, _Annotation] = {}
    skipped = Skipped()
    for path in find_images(source, {".json"})[0] if source.is_dir() else [source]:
        for annotation in _annotations(path, skipped):
            image = _find(annotation.image, annotation.place, finder)
            other = newest.setdefault(image, annotation)
            if other is not annotation:
                skipped.add("older annotations of an image", annotation.place)
                newest[image] = annotation if annotation.created >= other.created else other
    for annotation in newest.values():
        skipped.update(annotation.skipped)
    regions = [region for annotation in newest.values() for region in annotation.regions]
    chosen = choose_classes(sorted({region.label for region in regions}), classes)
    items = [
        Item(image, finder.name_of(image), partial(_draw, image, annotation.regions, chosen))
        for image, annotation in newest.items()
    ]
    return Source(chosen.names, items, skipped, chosen.colors)


def _is_label_studio(path: Path) -> bool:
    outline = outline_of(path)
    inner = outline.inner.get("annotations")
    return any(outline.keys >= kind for kind in _KINDS) and (not inner or "result" in inner)


def _annotations(path: Path, skipped: Skipped) -> Iterator[_Annotation]:
    """Yield the annotations in a file that count."""
    content = read_json(path)
    for number, task in enumerate(content if isinstance(content, list) else [content]):
        if not isinstance(task, dict) or not any(task.keys() >= kind for kind in _KINDS):
            skipped.add("entries of JSON files that are not Label Studio's", f"{path}: {number}")
            continue
        place = f"{path}: task {task.get('id', number)}"
        with refusing(place, "cannot be read"):
            yield from _annotations_of(task, place, skipped)


def _annotations_of(task: Mapping[str, Any], place: str, skipped: Skipped) -> Iterator[_Annotation]:
    if "annotator" in task:  # JSON_MIN
        lists = [value for value in task.values() if isinstance(value, list)]
        regions = [{"value": v, **v} for values in lists for v in values if isinstance(v, dict)]
        yield _annotation(task, task, regions, place)
        return
    data, several = task.get("data"), task.get("annotations", task.get("completions"))
    if data is None:
        data, several = task["task"]["data"], [task]
    if task.get("predictions"):
        skipped.add("predictions", place, len(task["predictions"]))
    if not several:
        skipped.add("tasks without annotations", place)
    for one in several or []:
        if one.get("was_cancelled") or one.get("skipped"):
            skipped.add("cancelled annotations", place)
        else:
            yield _annotation(data, one, one.get("result") or [], place)


def _annotation(
    data: Mapping[str, Any],
    annotation: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    place: str,
) -> _Annotation:
    found = _Annotation(place, _image_in(data, place), str(annotation.get("created_at", "")), [])
    labelled = {result.get("id") for result in results if _label_keys(result)}
    for number, result in enumerate(results):
        if result.get("id") in labelled and not _label_keys(result):
            continue  # the same region, without its label
        here = f"{place}, region {result.get('id', number)}"
        with refusing(here, "cannot be read"):
            region = _region(result, here, found.skipped)
            found.regions.extend([] if region is None else [region])
    return found


def _label_keys(result: Mapping[str, Any]) -> list[str]:
    return [key for key in result["value"] if key.endswith("labels")]


def _region(result: Mapping[str, Any], place: str, skipped: Skipped) -> _Region | None:
    """Return a region, or None if it has no class or no area."""
    value = result["value"]
    kinds = _label_keys(result)
    labels = [label for key in kinds for label in value[key]]
    kind = result.get("type") or (kinds[0] if kinds else "choices")
    if "x" not in value and "points" not in value and "rle" not in value:
        skipped.add(f"results of type '{kind}', which are no regions", place)
        return None
    if not labels:
        skipped.add("regions without a label", place)
        return None
    if len(labels) > 1:
        raise InputError(f"{place}: labels {first_few(labels)}; a region has one class: keep one")
    if result.get("image_rotation"):
        raise InputError(
            f"{place}: the image was turned by {result['image_rotation']} degrees while labelling; "
            "turn it back in Label Studio, or turn the file and label it again"
        )
    size = int(result["original_height"]), int(result["original_width"])
    shape = _shape(value, size)
    if shape is None:
        skipped.add(f"{kind} without area", place)
        return None
    return _Region(place, class_name_at(labels[0], place), size, shape)


def _shape(value: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.float64] | bytes | None:
    """Return run lengths, corners, or an ellipse in pixels; None for a shape without area.

    Coordinates are percents of the image. Rectangles are turned about their first corner.
    """
    if "rle" in value:
        return bytes([*value["rle"]])
    scale = np.array([size[1], size[0]]) / 100
    angle = math.radians(float(value.get("rotation") or 0))
    if "points" in value:
        points = np.array(value["points"], np.float64)
        return points * scale if len(points) > 2 else None
    corner = np.array([value["x"], value["y"]], np.float64) * scale
    if "radiusX" in value:
        radii = np.array([value["radiusX"], value["radiusY"]], np.float64) * scale
        return None if radii.min() <= 0 else np.array([*corner, *radii, angle])
    if "height" not in value:  # a keypoint
        return None
    width, height = np.array([value["width"], value["height"]], np.float64) * scale
    if width <= 0 or height <= 0:
        return None
    right = width * np.array([math.cos(angle), math.sin(angle)])
    down = height * np.array([-math.sin(angle), math.cos(angle)])
    return np.array([corner, corner + right, corner + right + down, corner + down])


def _image_in(data: Mapping[str, Any], place: str) -> str:
    """Return what a task calls its image: under "image", or the only text that ends like one."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    named = [v for v in texts.values() if Path(_file_of(v)).suffix.lower() in IMAGE_SUFFIXES]
    found = [texts["image"]] if "image" in texts else named
    if len(found) != 1:
        raise InputError(
            f"{place}: expected one image in its data, got {len(found)}; the keys are "
            f"{first_few(data)}"
        )
    if found[0].startswith("data:"):
        raise InputError(
            f"{place}: its image is inside the JSON; save it as a file, and write its name here"
        )
    return found[0]


def _file_of(text: str) -> str:
    """Return the path in a URL: of s3://bucket/x.jpg, /data/local-files/?d=x.jpg or x.jpg."""
    if "?d=" in text:
        return parse_qs(urlsplit(text).query).get("d", [""])[0]
    return unquote(urlsplit(text).path) if "://" in text else text


def _find(text: str, place: str, finder: ImageFinder) -> Path:
    """Find an image by its path, with and without what Label Studio changes when it is uploaded."""
    path = _file_of(text)
    names = dict.fromkeys([path, unquote(path)])
    shorter = [
        _PREFIX.sub("", name.replace("\\", "/").rsplit("/", 1)[-1], count=1) for name in names
    ]
    for name in [*names, *shorter]:
        try:
            return finder.find(name, place)
        except InputError:
            continue
    return finder.find_stored(shorter[-1]) or finder.find(path, place)


def _draw(image: Path, regions: Sequence[_Region], classes: Classes) -> Labels:
    size = regions[0].size if regions else image_size(image)
    canvas = Canvas(*size, classes.index("background"))
    for region in regions:
        with refusing(region.place, "it cannot be drawn"):
            if region.size != size:
                raise ValueError(f"an image of {region.size[1]}x{region.size[0]} pixels")
            label = classes.index(region.label)
            if isinstance(region.shape, bytes):
                canvas.region(decode_alpha(region.shape, *size), 0, 0, label)
            else:
                canvas.outline(region.shape, label)
    return canvas.mask
