"""Data sets in other formats, turned into the ordinary folder layout.

A reader finds the images of a source and knows how to draw the mask of each; writing, splitting
and checking are shared. Add a format to READERS.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sceneparse.data.coco import read_coco_instances, read_coco_panoptic
from sceneparse.data.datasets import match_by_stem
from sceneparse.data.labels import Color, Labels, ignore_index_for
from sceneparse.data.reading import open_image, read_image, read_mask
from sceneparse.data.source import (
    Item,
    Source,
    blank_mask,
    fill_polygon,
    labels_of_codes,
    make_source,
    require_near,
)
from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import inside, read_json, read_text

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)


def read_voc(masks: Path, images: Path) -> Source:
    """Palette masks of Pascal VOC (SegmentationClass): index 255 is void."""
    items = [Item(pair.image, partial(read_mask, pair.mask)) for pair in _pairs(images, masks)]
    return make_source(VOC_CLASSES, items)


def read_color_masks(masks: Path, images: Path, table: Path) -> Source:
    """RGB masks; the table is a CSV with the columns name,r,g,b, a line per class.

    A class named "ignore" or "void" is not trained on.
    """
    rows = _read_table(table, ("name", "r", "g", "b"))
    colors: dict[str, Color] = {}
    for row in rows:
        colors[row["name"]] = _color(row, table)
    void = {name for name in colors if name.lower() in {"ignore", "void"}}
    names = tuple(name for name in colors if name not in void)
    ignore = ignore_index_for(len(names))
    labels = {colors[name]: ignore for name in void}
    labels |= {colors[name]: k for k, name in enumerate(names)}
    if len(labels) != len(rows):
        raise InputError(f"{table}: two classes share a name or a colour")
    items = [
        Item(pair.image, partial(_decode_colors, pair.mask, labels))
        for pair in _pairs(images, masks)
    ]
    return Source(names, tuple(colors[name] for name in names), tuple(items))


def _decode_colors(path: Path, labels: Mapping[Color, int]) -> Labels:
    codes = {(r << 16) | (g << 8) | b: label for (r, g, b), label in labels.items()}
    mask, unknown = labels_of_codes(read_image(path), codes)
    if unknown:
        shown = first_few(
            f"({code >> 16},{code >> 8 & 255},{code & 255}) ({count} px)"
            for code, count in sorted(unknown.items())
        )
        raise InputError(f"{path}: colours outside the table: {shown}")
    return mask


def read_pairs(table: Path, root: Path | None = None) -> Source:
    """Read a CSV with the columns image,mask (relative to the CSV); masks hold 0..K-1 and 255.

    All lie in `root`, by default the CSV's folder.
    """
    rows = _read_table(table, ("image", "mask"))
    files = [
        [inside(table.parent, row[column], table, root=root) for column in ("image", "mask")]
        for row in rows
    ]
    items = [Item(image, partial(read_mask, mask)) for image, mask in files]
    largest = max((_largest_label(item) for item in items), default=0)
    return make_source([f"class_{k}" for k in range(max(largest + 1, 2))], items)


def _largest_label(item: Item) -> int:
    mask = item.mask()
    ignore = 255 if mask.dtype == np.uint8 else 65535
    return int(mask[mask != ignore].max(initial=0))


def read_labelme(annotations: Path, root: Path | None = None) -> Source:
    """Read LabelMe's JSON files: polygons, rectangles and circles, later ones on top.

    The images lie in `root`, by default the folder of the JSON files.
    """
    files = sorted(annotations.glob("*.json"))
    contents = [(path, read_json(path)) for path in files]
    names = sorted({shape["label"] for _, content in contents for shape in content["shapes"]})
    classes = [*(name for name in ("background",) if name not in names), *names]
    items = [
        Item(
            inside(annotations, content["imagePath"], path, root=root),
            partial(_draw_labelme, path, content, classes),
        )
        for path, content in contents
    ]
    return make_source(classes, items)


def _draw_labelme(path: Path, content: Mapping[str, Any], classes: Sequence[str]) -> Labels:
    background = classes.index("background")
    mask = blank_mask(content["imageHeight"], content["imageWidth"], background)
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


def _pairs(images: Path, masks: Path) -> list[Any]:
    """Pair by name the images that have a mask; VOC has masks for a part of its images only."""
    pairs = [pair for pair in match_by_stem(images, masks) if pair.mask.is_file()]
    lonely = [pair.mask.name for pair in pairs if not pair.image.is_file()]
    if lonely:
        raise InputError(f"{len(lonely)} masks have no image in {images}: {first_few(lonely)}")
    return pairs


def _color(row: Mapping[str, str], table: Path) -> Color:
    values = [int(row[k]) if row[k].isdecimal() else -1 for k in ("r", "g", "b")]
    if not 0 <= min(values) <= max(values) <= 255:
        raise InputError(f"{table}: expected r,g,b in 0..255 for '{row['name']}'")
    return values[0], values[1], values[2]


def _read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    text = read_text(path)
    with refusing(path, "cannot be read as CSV"):
        rows = list(csv.DictReader(text.splitlines()))
    if not rows or any(row.get(column) in (None, "") for row in rows for column in columns):
        raise InputError(f"{path}: expected the columns {','.join(columns)}, all filled")
    return rows


def write_folders(
    source: Source,
    target: Path,
    split_of: Mapping[Path, str],
    after_item: Callable[[], None],
) -> None:
    """Write TARGET/SPLIT/images and labels, classes.txt and colors.txt; images are copied as is."""
    for item in source.items:
        mask = _checked(item, source)
        folder = target / split_of[item.image]
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.image, folder / "images" / item.image.name)
        wide = source.ignore_index > 255
        stored = mask.astype(np.uint16 if wide else np.uint8)
        Image.fromarray(stored).save(folder / "labels" / f"{item.image.stem}.png")
        after_item()
    (target / "classes.txt").write_text("".join(f"{n}\n" for n in source.classes), "utf-8")
    colors = (f"{r} {g} {b}\n" for r, g, b in source.colors)
    (target / "colors.txt").write_text("".join(colors), "utf-8")


def _checked(item: Item, source: Source) -> Labels:
    """Draw a mask; it must be of the image's size and hold classes and the ignore label only."""
    mask = item.mask()
    with open_image(item.image) as image:
        if (image.height, image.width) != mask.shape:
            raise InputError(
                f"{item.image} is {image.width}x{image.height}, "
                f"its mask {mask.shape[1]}x{mask.shape[0]}"
            )
    wrong = (mask >= len(source.classes)) & (mask != source.ignore_index)
    if wrong.any():
        values = first_few(np.unique(mask[wrong]).tolist())
        raise InputError(f"{item.image}: its mask holds {values}, outside the classes")
    return mask


def read_source(kind: str, **files: Path | None) -> Source:
    """Read a data set in a format of READERS; raises InputError naming what is not as it should.

    `files` are the arguments of its reader.
    """
    main_file = files.get("annotations") or files.get("table") or files["masks"]
    with refusing(main_file, f"not as {kind} has it"):
        return READERS[kind](**files)


READERS: dict[str, Callable[..., Source]] = {
    "voc": read_voc,
    "colors": read_color_masks,
    "pairs": read_pairs,
    "labelme": read_labelme,
    "coco-panoptic": read_coco_panoptic,
    "coco-instances": read_coco_instances,
}
