"""COCO's instance annotations: a JSON file of polygons and run lengths."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.formats.shared.source import (
    Item,
    Source,
    blank_mask,
    coco_classes,
    fill_polygon,
)
from sceneparse.data.labels import Labels
from sceneparse.errors import InputError
from sceneparse.files import inside, read_json

_MAX_RUN_BITS = 60


def read(annotations: Path, images: Path) -> Source:
    """Read COCO's instance JSON: class 0 is the background, small instances cover large ones."""
    content = read_json(annotations)
    names, index_of = coco_classes(content)
    shapes: dict[int, list[Any]] = {entry["id"]: [] for entry in content["images"]}
    for annotation in content["annotations"]:
        shapes[annotation["image_id"]].append(annotation)
    items = [
        Item(
            inside(images, entry["file_name"], annotations),
            partial(_draw_instances, annotations, entry, shapes[entry["id"]], index_of),
        )
        for entry in content["images"]
    ]
    return Source(["background", *names], items)


def _draw_instances(
    path: Path,
    entry: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    index_of: Mapping[int, int],
) -> Labels:
    mask = blank_mask(entry["height"], entry["width"], 0)
    for annotation in sorted(annotations, key=lambda a: -float(a["area"])):
        label, shape = index_of[annotation["category_id"]] + 1, annotation["segmentation"]
        if isinstance(shape, dict):
            runs = shape["counts"]
            if isinstance(runs, str):
                runs = _uncompress_runs(runs)
            mask[_decode_runs(path, runs, mask.shape)] = label
        else:
            for polygon in shape:
                fill_polygon(mask, np.array(polygon, dtype=float).reshape(-1, 2), label)
    return mask


def _decode_runs(path: Path, runs: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Turn run lengths of zeros and ones, down the columns, into a mask (H, W)."""
    if sum(runs) != shape[0] * shape[1]:
        raise InputError(
            f"{path}: run lengths of {sum(runs)} pixels for a {shape[1]}x{shape[0]} image"
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.asarray(flat.reshape(shape[1], shape[0]).T)


def _uncompress_runs(text: str) -> list[int]:
    """Decode COCO's text form: 5 bits per character, differences from the run before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > _MAX_RUN_BITS:
                raise ValueError("a run length has too many digits")
            continue
        if code & 16:  # the number is negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
