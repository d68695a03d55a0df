"""Pascal VOC's palette masks, and those of labelme2voc with classes of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sceneparse.data.formats.shared.classes import Classes, read_classes
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.formats.shared.voc_folders import voc_pairs, voc_root
from sceneparse.data.reading import read_mask

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
_NAMES = ("class_names.txt", "labels.txt", "classes.txt")


def recognise(source: Path) -> str | None:
    """Recognise the folder SegmentationClass beside JPEGImages, class_names.txt or ImageSets."""
    root = voc_root(source)
    if root is None or (root / "labelmap.txt").exists():
        return None
    beside = ("JPEGImages", "ImageSets", *_NAMES)
    found = next((name for name in beside if (root / name).exists()), None)
    return f"it holds SegmentationClass and {found}" if found else None


def read(source: Path, *, images: Path | None = None, classes: Path | None = None) -> Source:
    """Read masks of class numbers; 255 is ignored. ImageSets/Segmentation gives the splits.

    The classes are those of --classes or class_names.txt, otherwise the 21 of Pascal VOC.
    """
    found = voc_pairs(source, images)
    items = [Item(p.image, p.name, partial(read_mask, p.mask), p.split) for p in found.pairs]
    root = voc_root(source) or source
    file = classes or next((root / n for n in _NAMES if (root / n).is_file()), None)
    if file is None:
        found.notes.append(
            "classes are the 21 of Pascal VOC, since no class_names.txt names others"
        )
    named = Classes([*VOC_CLASSES]) if file is None else read_classes(file)
    return Source(named.names, items, found.skipped, named.colors, found.notes)
