"""Write a source as a dataset in the folder layout: SPLIT/images, SPLIT/labels, classes.txt."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import IGNORE_8_BIT, Labels, count_labels, palette
from sceneparse.data.reading import image_size
from sceneparse.errors import InputError, first_few
from sceneparse.files import remove_empty_folder

# Masks become small at any level; these write four times faster than the defaults.
_PNG_OPTIONS = [
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
]


@dataclass
class Written:
    """What was written: pixels per class, and last those that are ignored (K + 1,); and the images.

    `copied`, `bytes_copied`: of these images no link could be made, or none was wanted.
    """

    pixels: NDArray[np.int64]
    copied: int = 0
    bytes_copied: int = 0

    @property
    def description(self) -> str:
        """How the images got there, if links were wanted: a clause without a full stop."""
        if not self.copied:
            return "images are linked"
        size = f"{self.bytes_copied / 2**20:,.1f} MB"
        return f"{self.copied} images are copied ({size}), because links cannot be made there"


def write_folders(
    source: Source,
    target: Path,
    split_of: Mapping[Path, str],
    *,
    link: bool,
    after_item: Callable[[], None],
) -> Written:
    """Write TARGET/SPLIT/images and labels, classes.txt and colors.txt.

    Images are copied as they are, or linked where links can be made. `split_of` gives the split of
    each image; images without one are skipped. All is written beside the target and renamed when
    whole. Raises InputError for a mask that does not fit its image, and OSError if a file cannot be
    written.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    written = Written(np.zeros(len(source.classes) + 1, np.int64))
    try:
        for item in source.items:
            if item.image in split_of:
                mask = _draw_checked(item, source)
                known = count_labels(mask, len(source.classes))
                written.pixels += np.append(known, mask.size - known.sum())
                linked = _write_item(item, mask, partial / split_of[item.image], link=link)
                written.copied += not linked
                written.bytes_copied += 0 if linked else item.image.stat().st_size
                after_item()
        _require_content(written.pixels[:-1], source)
        (partial / "classes.txt").write_text("".join(f"{n}\n" for n in source.classes), "utf-8")
        colors = source.colors or palette(source.classes)
        (partial / "colors.txt").write_text(
            "".join(f"{r} {g} {b}\n" for r, g, b in colors), "utf-8"
        )
        if target.exists():
            remove_empty_folder(target)  # since Windows would not replace it
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _write_item(item: Item, mask: Labels, folder: Path, *, link: bool) -> bool:
    """Write an image and its mask; return whether the image is a link."""
    image = folder / "images" / f"{item.name}{item.image.suffix}"
    label = folder / "labels" / f"{item.name}.png"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    linked = link and _link(item.image, image)
    if not linked:
        shutil.copyfile(item.image, image)
    # Unlike imwrite, Path.write_bytes names the reason if it fails.
    done, content = cv2.imencode(".png", mask, _PNG_OPTIONS)
    if not done:
        raise InputError(f"{item.image}: its mask cannot be encoded as PNG")
    label.write_bytes(content.tobytes())
    return linked


def _link(image: Path, link: Path) -> bool:
    """Link to an image: hard, so that the dataset survives a move, or symbolic across disks.

    Returns False where neither works: on memory cards, and across disks of Windows.
    """
    for make in (link.hardlink_to, link.symlink_to):
        with suppress(OSError, NotImplementedError):
            make(image.resolve())
            return True
    return False


def _draw_checked(item: Item, source: Source) -> Labels:
    """Draw a mask; InputError unless it has the image's upright size and only known labels."""
    mask = item.mask()
    height, width = image_size(item.image)
    if (height, width) != mask.shape:
        turned = "; the image is turned by EXIF: turn the mask too"
        sideways = turned if (width, height) == mask.shape else ""
        raise InputError(
            f"{item.image} is {width}x{height}, its mask {mask.shape[1]}x{mask.shape[0]}{sideways}"
        )
    wrong = (mask >= len(source.classes)) & (mask != source.ignore_index)
    if wrong.any():
        values = first_few(np.unique(mask[wrong]).tolist())
        raise InputError(
            f"{item.image}: its mask holds {values}, outside the {len(source.classes)} classes "
            f"0..{len(source.classes) - 1}; name all classes in order with --classes"
        )
    return mask.astype(np.uint8 if source.ignore_index == IGNORE_8_BIT else np.uint16, copy=False)


def _require_content(counts: NDArray[np.int64], source: Source) -> None:
    """Raise InputError if the masks show fewer than two classes."""
    shown = [name for name, count in zip(source.classes, counts, strict=True) if count]
    if len(shown) < 2:
        skipped = "".join(f"; skipped: {line}" for line in source.skipped.lines())
        raise InputError(
            f"the masks of all {len(source.items)} images show {first_few(shown) or 'no class'} "
            f"only, of {len(source.classes)} classes ({first_few(source.classes)}); a dataset "
            f"needs two: is the format right (--as), and are the class names (--classes)?{skipped}"
        )
