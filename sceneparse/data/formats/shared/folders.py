"""Write a source as a dataset in the folder layout: SPLIT/images, SPLIT/labels, classes.txt."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import IGNORE_8_BIT, Labels, palette_color
from sceneparse.data.reading import open_image
from sceneparse.errors import InputError, first_few


def write_folders(
    source: Source, target: Path, split_of: Mapping[Path, str], after_item: Callable[[], None]
) -> None:
    """Write TARGET/SPLIT/images and labels, classes.txt and colors.txt; images are copied as is.

    `split_of` gives the split of each image. Raises InputError for a mask that does not fit its
    image, and OSError if a file cannot be written.
    """
    for item in source.items:
        mask = _draw_checked(item, source)
        folder = target / split_of[item.image]
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.image, folder / "images" / item.image.name)
        stored = mask.astype(np.uint8 if source.ignore_index == IGNORE_8_BIT else np.uint16)
        Image.fromarray(stored).save(folder / "labels" / f"{item.image.stem}.png")
        after_item()
    (target / "classes.txt").write_text("".join(f"{n}\n" for n in source.classes), "utf-8")
    colors = source.colors or map(palette_color, range(len(source.classes)))
    (target / "colors.txt").write_text("".join(f"{r} {g} {b}\n" for r, g, b in colors), "utf-8")


def _draw_checked(item: Item, source: Source) -> Labels:
    """Draw a mask; InputError unless it has the image's size and only known labels."""
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
