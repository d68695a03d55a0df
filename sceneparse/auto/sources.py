"""Read a folder or annotation file of any format, with errors that say what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sceneparse.data.datasets import spread
from sceneparse.data.formats import FORMATS, Format, find_format
from sceneparse.data.formats.shared.layouts import find_pairs
from sceneparse.data.formats.shared.outlines import json_files
from sceneparse.data.formats.shared.proposals import are_smoothed_black_and_white
from sceneparse.data.pairing import IMAGE_SUFFIXES, find_images
from sceneparse.errors import InputError
from sceneparse.files import exists
from sceneparse.runtime.shell import quoted

# Masks that are looked at to see whether all are smoothed.
_LOOKED_AT = 8
# Options that messages of the formats name, but that only `convert` has.
_CONVERT_OPTIONS = re.compile(r"--(?:as|images|split|near-duplicates|unknown-colors)\b")


def require_content(source: Path) -> None:
    """Raise InputError for a path that does not exist, a folder without files, and one image."""
    if not exists(source):
        raise InputError(
            f"'{source}' does not exist; give the folder of images and masks, or the annotation "
            "file"
        )
    if source.is_dir() and not any(path.is_file() for path in source.rglob("*")):
        raise InputError(f"'{source}' is empty; give the folder that holds images and masks")
    if source.is_file() and source.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"'{source}' is one image; give the folder of images and masks")


def format_of(source: Path) -> tuple[Format, str, dict[str, object]]:
    """Return the format of a source, how it is known, and options that its masks need.

    Black and white masks with smoothed edges or JPEG noise are read as colours, of which each pixel
    has the nearer one. Raises InputError for a source of no format.
    """
    try:
        kind, why = find_format(source)
    except InputError:
        is_known = any(kind.recognise(source) for kind in FORMATS.values())  # by several formats
        if source.is_dir() and not is_known and not json_files(source):
            _refuse_images_alone(source)
        raise
    if kind.name == "folders" and _are_smoothed(source):
        return FORMATS["colors"], f"{why}; masks are black and white", {"unknown_colors": "nearest"}
    return kind, why, {}


def _are_smoothed(source: Path) -> bool:
    masks = [pair.mask for pair in find_pairs(source, None).pairs]
    return are_smoothed_black_and_white([masks[k] for k in spread(len(masks), _LOOKED_AT)])


def _refuse_images_alone(source: Path) -> None:
    """Raise InputError for a folder of images without masks, with the reason if it is known."""
    images = find_images(source)[0]
    if not images:
        return
    reason = "put masks of the same names into a folder 'masks' beside a folder 'images'"
    try:
        find_pairs(source, None)
    except InputError as error:
        reason = str(error)
    raise InputError(
        f"'{source}' holds {len(images)} images, but no masks that belong to them were found: "
        f"{reason}; or give the annotation file that belongs to them"
    )


@contextmanager
def explained(source: Path) -> Iterator[None]:
    """Add to errors that name options of convert how these are used."""
    try:
        yield
    except InputError as error:
        options = dict.fromkeys(_CONVERT_OPTIONS.findall(str(error)))
        if not options or " of sceneparse convert " in str(error):
            raise
        are = "are options" if len(options) > 1 else "is an option"
        raise InputError(
            f"{error} ({' and '.join(options)} {are} of sceneparse convert "
            f"{quoted(str(source))} NEW_FOLDER; give NEW_FOLDER to sceneparse auto)"
        ) from error
