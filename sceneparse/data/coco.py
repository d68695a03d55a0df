"""COCO's panoptic and instance annotations as sources of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Labels, ignore_index_for
from sceneparse.data.reading import read_image
from sceneparse.data.source import (
    Item,
    Source,
    blank_mask,
    fill_polygon,
    labels_of_codes,
    make_source,
)
from sceneparse.errors import InputError, first_few
from sceneparse.files import inside, read_json


def read_coco_panoptic(annotations: Path, images: Path) -> Source:
    """Read COCO's panoptic JSON; the PNGs lie in the folder of the same name beside it."""
    content = read_json(annotations)
    classes, index_of = _coco_classes(content)
    ignore = ignore_index_for(len(classes))
    folder = annotations.with_suffix("")
    files = {e["id"]: inside(images, e["file_name"], annotations) for e in content["images"]}
    items = [
        Item(
            files[entry["image_id"]],
            partial(
                _draw_panoptic,
                inside(folder, entry["file_name"], annotations),
                {s["id"]: index_of[s["category_id"]] for s in entry["segments_info"]},
                ignore,
            ),
        )
        for entry in content["annotations"]
    ]
    return make_source(classes, items)


def _draw_panoptic(path: Path, label_of: Mapping[int, int], ignore: int) -> Labels:
    # The number of a segment is red + 256 green + 256^2 blue; of no segment 0.
    codes = {_swapped(number): label for number, label in label_of.items()}
    labels, unknown = labels_of_codes(read_image(path), {0: ignore, **codes})
    if unknown:
        names = first_few(sorted(map(_swapped, unknown)))
        raise InputError(f"{path}: segments that the JSON does not know: {names}")
    return labels


def _swapped(number: int) -> int:
    """Turn red | green << 8 | blue << 16 into red << 16 | green << 8 | blue, and back."""
    return int.from_bytes(number.to_bytes(3, "little"), "big")


def read_coco_instances(annotations: Path, images: Path) -> Source:
    """Read COCO's instance JSON: class 0 is the background, small instances lie on large ones."""
    content = read_json(annotations)
    names, index_of = _coco_classes(content)
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
    return make_source(["background", *names], items)


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
    """Run lengths of zeros and ones in turn, down the columns."""
    if sum(runs) != shape[0] * shape[1]:
        raise InputError(
            f"{path}: run lengths of {sum(runs)} pixels for a {shape[1]}x{shape[0]} image"
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask: NDArray[np.bool_] = flat.reshape(shape[1], shape[0]).T
    return mask


def _uncompress_runs(text: str) -> list[int]:
    """Read COCO's text form: 5 bits per character, differences from the run before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > _LONGEST_RUN:
                raise ValueError("a run length of endless digits")
            continue
        if code & 16:  # the number is negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


_LONGEST_RUN = 60  # bits


def _coco_classes(content: Mapping[str, Any]) -> tuple[list[str], dict[int, int]]:
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    names = [category["name"] for category in categories]
    return names, {category["id"]: k for k, category in enumerate(categories)}
