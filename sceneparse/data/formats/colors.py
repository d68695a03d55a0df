"""Folders of images and of masks painted in colours, with a table of the colours."""

from __future__ import annotations

from pathlib import Path

from sceneparse.data.formats.shared.classes import SHIPPED, Classes, read_classes
from sceneparse.data.formats.shared.colors import color_source
from sceneparse.data.formats.shared.layouts import find_pairs
from sceneparse.data.formats.shared.source import Source
from sceneparse.errors import InputError

_TABLES = ("*class*dict*.csv", "*colo*r*.csv", "*colo*r*.txt", "*palette*.csv", "*palette*.txt")


def recognise(source: Path) -> str | None:
    """Recognise a table of colours, such as class_dict.csv or label_colors.txt, beside masks."""
    found = _find_table(source)
    if found is None or (source / "SegmentationClass").exists():
        return None
    return f"{found.name} names colours"


def read(
    source: Path,
    *,
    images: Path | None = None,
    classes: Path | None = None,
    unknown_colors: str = "error",
) -> Source:
    """Read masks in the colours of a table: of the source, or --classes if it gives colours.

    Colours called void or ignore, and transparent pixels, are ignored.
    """
    table = _find_table(source)
    if classes is not None and (given := read_classes(classes)).colors is not None:
        table_classes, classes = given, None
    elif table is not None:
        table_classes = read_classes(table)
    else:
        raise InputError(
            f"'{source}' holds no table of colours (class_dict.csv, label_colors.txt); write one "
            "with a line NAME,R,G,B per class and give it with --classes"
        )
    found = find_pairs(source, images)
    if classes is None and _is_camvid(table_classes):
        found.notes.append("all classes of CamVid; --classes camvid_11 makes the usual 11 of them")
    return color_source(found, table_classes, classes, unknown_colors)


def _find_table(source: Path) -> Path | None:
    """Return the first file in a folder that reads as a table of colours."""
    if not source.is_dir():
        return None
    for pattern in _TABLES:
        for path in sorted(source.glob(pattern)):
            if path.name != "colors.txt" and path.is_file() and _has_colors(path):
                return path
    return None


def _has_colors(path: Path) -> bool:
    try:
        return read_classes(path).colors is not None
    except InputError:  # some other text
        return False


def _is_camvid(table: Classes) -> bool:
    grouped = read_classes(Path(next(iter(SHIPPED))))
    return {*table.names} >= {*grouped.aliases}
