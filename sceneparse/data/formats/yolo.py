"""YOLO's segmentation labels: a text file per image, a class number and a polygon per line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sceneparse.data.formats.shared.classes import Classes, choose_classes
from sceneparse.data.formats.shared.drawing import coco_runs, paint_runs
from sceneparse.data.formats.shared.image_finder import ImageFinder
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.formats.shared.splits import split_in
from sceneparse.data.labels import Labels
from sceneparse.data.pairing import find_images
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError, refusing
from sceneparse.files import MAX_DESCRIPTION, read_text

# LabelImg and others write classes.txt among the labels.
_LISTS = ("classes.txt", "*.names", "labels/classes.txt", "labels/*/classes.txt")
_YAML = ("data.yaml", "dataset.yaml", "*.yaml", "*.yml")
# Coordinates are shares of the image; tools round them.
_MAX_SHARE = 1.01

Polygon = tuple[int, NDArray[np.float64]]


def recognise(source: Path) -> str | None:
    """Recognise text files of a class number and coordinates in 0..1 per line."""
    root = source.parent if _is_yaml(source) else source
    found = next((p for p in islice(root.glob("**/*.txt"), 50) if _is_label(p)), None)
    return f"{found.name} holds a class number and shares of the image" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read the label files of a folder or of its data.yaml; names of folders give the splits.

    Polygons are drawn as pycocotools draws them, small ones over large ones. Boxes have no outline
    and are skipped. Images without a label file show the background only.
    """
    root = source.parent if _is_yaml(source) else source
    names, skipped = _names(source), Skipped()
    finder = ImageFinder(images or root)
    drawn = {finder.find(name, path): path for path, name in _label_files(root).items()}
    polygons = {image: _read_polygons(path, skipped) for image, path in drawn.items()}
    numbers = [number for shapes in polygons.values() for number, _ in shapes]
    names = names or [f"class_{number}" for number in range(max(numbers, default=0) + 1)]
    if numbers and max(numbers) >= len(names):
        bad = next(p for i, p in drawn.items() if any(n >= len(names) for n, _ in polygons[i]))
        raise InputError(
            f"{bad}: class {max(numbers)} of {len(names)} names; add a name for each class"
        )
    chosen = choose_classes(names, classes)
    items = []
    folders = {image.parent for image in drawn}
    for image in find_images(images or root)[0]:
        if image not in drawn and image.parent not in folders:
            skipped.add("images in folders without labels", image)
            continue
        shapes = polygons.get(image, [])
        draw = partial(_draw, image, shapes, names, chosen)
        items.append(Item(image, finder.name_of(image), draw, split_in(image, images or root)))
    notes = [f"{len(items) - len(drawn)} images have no label file and show background only"]
    return Source(chosen.names, items, skipped, chosen.colors, notes[: len(items) > len(drawn)])


def _label_files(root: Path) -> dict[Path, str]:
    """Return the label files and the names of their images: labels/x.txt belongs to images/x."""
    named = {}
    for path in sorted(filter(Path.is_file, root.glob("**/*.txt"))):
        folders = list(path.relative_to(root).parent.parts)
        if path.name == "classes.txt":
            continue
        if "labels" in folders:
            folders[len(folders) - 1 - folders[::-1].index("labels")] = "images"
        elif not _is_label(path):
            continue  # a list of names or a readme
        named[path] = "/".join([*folders, path.stem])
    return named


def _is_label(path: Path) -> bool:
    if not path.is_file():  # a folder, or a pipe that would not end
        return False
    try:
        numbers = read_text(path, MAX_DESCRIPTION).partition("\n")[0].split()
    except InputError:  # some other file
        return False
    has_shares = all(_share(number) is not None for number in numbers[1:])
    return len(numbers) >= 5 and len(numbers) % 2 == 1 and numbers[0].isdecimal() and has_shares


def _is_yaml(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in {".yaml", ".yml"}


def _share(text: str) -> float | None:
    """Return a coordinate as a share of the image; None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _MAX_SHARE else None


def _names(source: Path) -> list[str]:
    """Return the names in data.yaml, classes.txt or obj.names; [] if there is no such file."""
    root = source.parent if _is_yaml(source) else source
    files = [source] if _is_yaml(source) else [p for name in _YAML for p in sorted(root.glob(name))]
    for path in files:
        with refusing(path, "cannot be read as YAML"):
            content: Any = yaml.safe_load(read_text(path, MAX_DESCRIPTION))
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            names = [names.get(number) for number in range(len(names))]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
        if names is not None:
            raise InputError(f"{path}: names must be a list, or numbers 0..K-1 with a name each")
    found = [p for name in _LISTS for p in sorted(root.glob(name)) if p.is_file()]
    text = read_text(found[0], MAX_DESCRIPTION) if found else ""
    return [line.strip() for line in text.rstrip().splitlines()]


def _read_polygons(path: Path, skipped: Skipped) -> list[Polygon]:
    """Return class number and points (N, 2), as shares of the image, of each line."""
    result = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        place = f"{path}, line {number}"
        shares = [_share(cell) for cell in cells[1:]]
        if not cells[0].isdecimal() or None in shares or len(shares) % 2:
            raise InputError(
                f"{place}: expected 'CLASS x y x y ...' with shares of the image 0..1, got "
                f"'{line[:80]}'"
            )
        if len(shares) == 4:
            skipped.add("boxes (four numbers), which have no outline", place)
        elif len(shares) < 6:
            skipped.add("polygons of fewer than three points", place)
        else:
            result.append((int(cells[0]), np.array(shares, np.float64).reshape(-1, 2)))
    return result


def _draw(image: Path, shapes: Sequence[Polygon], names: Sequence[str], classes: Classes) -> Labels:
    height, width = image_size(image)
    regions = [coco_runs([points * [width, height]], height, width) for _, points in shapes]
    labels = [classes.index(names[number]) for number, _ in shapes]
    return paint_runs(regions, labels, height, width, classes.index("background"))
