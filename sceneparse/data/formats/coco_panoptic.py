"""COCO's panoptic annotations: a JSON file, and PNG files whose colours number the segments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sceneparse.data.color_codes import labels_of_codes
from sceneparse.data.formats.shared.classes import choose_classes
from sceneparse.data.formats.shared.coco_files import coco_paths, read_coco
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import Labels
from sceneparse.data.reading import read_image
from sceneparse.errors import InputError, first_few
from sceneparse.files import inside


def recognise(source: Path) -> str | None:
    """Recognise JSON with images, categories, and annotations that list segments."""
    found = coco_paths(source, panoptic=True)
    return f"{found[0].name} lists panoptic segments" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read panoptic JSON files; the PNG files are in the folder of the same name beside each.

    Pixels of no segment are ignored.
    """
    files = list(read_coco(source, images, panoptic=True))
    names = [name for file in files for name in file.category_names.values()]
    chosen = choose_classes(names, classes, background=False)
    items = []
    for file in files:
        folder = file.path.with_suffix("")
        for annotation in file.annotations:
            image = file.image_of(annotation)
            labels = {
                segment["id"]: chosen.index(file.category_of(segment, annotation))
                for segment in annotation["segments_info"]
            }
            segments = inside(folder, annotation["file_name"], file.path)
            draw = partial(_draw, segments, labels, chosen.ignore_index)
            items.append(Item(image.path, image.name, draw, image.split))
    return Source(chosen.names, items, Skipped(), chosen.colors)


def _draw(path: Path, label_of: Mapping[int, int], ignore: int) -> Labels:
    # The number of a segment is red + 256 green + 256^2 blue; 0 is no segment.
    codes = {_swapped(number): label for number, label in label_of.items()}
    labels, unknown = labels_of_codes(read_image(path), {0: ignore, **codes})
    if unknown:
        names = first_few(sorted(map(_swapped, unknown)))
        raise InputError(f"{path}: segments that the JSON file does not list: {names}")
    return labels


def _swapped(number: int) -> int:
    """Turn red | green << 8 | blue << 16 into red << 16 | green << 8 | blue, and back."""
    return int.from_bytes(number.to_bytes(3, "little"), "big")
