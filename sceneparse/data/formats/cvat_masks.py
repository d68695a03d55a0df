"""CVAT's "Segmentation mask": PNG files in the colours of labelmap.txt."""

from __future__ import annotations

from pathlib import Path

from sceneparse.data.formats.shared.classes import read_classes
from sceneparse.data.formats.shared.colors import color_source
from sceneparse.data.formats.shared.source import Source
from sceneparse.data.formats.shared.voc_folders import voc_pairs


def recognise(source: Path) -> str | None:
    """Recognise labelmap.txt beside the folder SegmentationClass."""
    if (source / "labelmap.txt").is_file() and (source / "SegmentationClass").is_dir():
        return "it holds labelmap.txt and SegmentationClass"
    return None


def read(
    source: Path,
    *,
    images: Path | None = None,
    classes: Path | None = None,
    unknown_colors: str = "error",
) -> Source:
    """Read SegmentationClass; images are in JPEGImages or --images, splits in ImageSets."""
    found = voc_pairs(source, images)
    return color_source(found, read_classes(source / "labelmap.txt"), classes, unknown_colors)
