"""COCO's panoptic annotations: a JSON file, and PNG files whose colours number the segments."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sceneparse.data.formats.shared.source import Item, Source, coco_classes, labels_of_codes
from sceneparse.data.labels import Labels, ignore_index_for
from sceneparse.data.reading import read_image
from sceneparse.errors import InputError, first_few
from sceneparse.files import inside, read_json


def read(annotations: Path, images: Path) -> Source:
    """Read COCO's panoptic JSON; the PNG files are in the folder of the same name beside it."""
    content = read_json(annotations)
    classes, index_of = coco_classes(content)
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
    return Source(classes, items)


def _draw_panoptic(path: Path, label_of: Mapping[int, int], ignore: int) -> Labels:
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
