"""Pascal VOC's palette masks, and those of labelme2voc with classes of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sceneparse.data.formats.shared.classes import read_classes
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.pairing import pair_folders
from sceneparse.data.reading import read_mask
from sceneparse.errors import InputError

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)


def recognise(source: Path) -> str | None:
    """Recognise the folders JPEGImages and SegmentationClass."""
    if (source / "SegmentationClass").is_dir() and (source / "JPEGImages").is_dir():
        return "it holds JPEGImages and SegmentationClass"
    return None


def read(
    source: Path, skipped: Skipped, *, images: Path | None = None, classes: Path | None = None
) -> Source:
    """Read palette masks (SegmentationClass) of images (JPEGImages); index 255 is void."""
    masks = source / "SegmentationClass" if (source / "SegmentationClass").is_dir() else source
    images = images or masks.parent / "JPEGImages"
    if not images.is_dir():
        raise InputError(f"folder '{images}' does not exist; give the folder of images by --images")
    pairs = pair_folders(images, masks).pairs
    items = [Item(p.image, p.name, partial(read_mask, p.mask)) for p in pairs if p.mask.is_file()]
    if classes is None:
        return Source(VOC_CLASSES, items, skipped)
    named = read_classes(classes)
    return Source(named.names, items, skipped, named.colors)
