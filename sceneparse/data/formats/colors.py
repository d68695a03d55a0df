"""Masks painted in a colour per class, with a table of the colours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sceneparse.data.formats.shared.classes import read_classes
from sceneparse.data.formats.shared.colors import labels_of_colors, require_rule
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import Color, Labels, ignore_index_for
from sceneparse.data.pairing import pair_folders
from sceneparse.data.reading import read_image
from sceneparse.errors import InputError


def recognise(source: Path) -> str | None:
    """Recognise nothing yet."""
    return None


def read(
    source: Path,
    skipped: Skipped,
    *,
    images: Path | None = None,
    classes: Path | None = None,
    unknown_colors: str = "error",
) -> Source:
    """Read RGB masks; the table is a CSV with the columns name,r,g,b and a line per class."""
    require_rule(unknown_colors)
    if images is None or classes is None:
        raise InputError("colors needs --images and --classes with a line NAME,R,G,B per class")
    table = read_classes(classes)
    if table.colors is None:
        raise InputError(f"{classes}: no colours; write NAME,R,G,B per line")
    ignore = ignore_index_for(len(table.names))
    label_of: Mapping[Color, int] = {color: k for k, color in enumerate(table.colors)}

    def draw(mask: Path) -> Labels:
        picture = read_image(mask)
        return labels_of_colors(
            picture, label_of, ignore, unknown_colors=unknown_colors, path=mask, skipped=skipped
        )

    pairs = pair_folders(images, source).pairs
    items = [Item(p.image, p.name, partial(draw, p.mask)) for p in pairs if p.mask.is_file()]
    return Source(table.names, items, skipped, table.colors)
