"""List files: an image and its mask per line, as a split of a dataset."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sceneparse.data.pairing import IMAGE_SUFFIXES, Pair, relative_name
from sceneparse.data.tables import Row, find_columns, read_rows
from sceneparse.errors import InputError, first_few
from sceneparse.files import inside

# Bytes of a list file: about a million lines.
MAX_LIST_SIZE = 2**28


def listed_pairs(root: Path, list_file: Path) -> list[Pair]:
    """Read an image and its mask per line, relative to root, with or without a header line."""
    rows = read_rows(list_file, MAX_LIST_SIZE)
    columns = find_columns(rows[0].cells, _LIST_COLUMNS, list_file) if rows else None
    pairs = []
    for row in rows[1:] if columns or _is_header(rows) else rows:
        cells = row.cells if columns is None else [row.cells[k] for k in columns.values()]
        if len(cells) != 2 or not all(Path(cell).name for cell in cells):
            raise InputError(
                f"{list_file}, line {row.line}: expected 'image mask', got "
                f"'{first_few(row.cells, 9)}'; name the columns image and mask in the first line, "
                "and separate paths that contain spaces by tabs or commas, or quote them"
            )
        image, mask = (inside(root, cell, list_file) for cell in cells)
        if image == root:
            raise InputError(
                f"{list_file}, line {row.line}: '{cells[0]}' is a folder; expected an image"
            )
        pairs.append(Pair(image, mask, relative_name(root, image)))
    count_of = Counter(pair.name for pair in pairs)
    if repeated := [name for name, count in count_of.items() if count > 1]:
        raise InputError(f"{list_file}: {len(repeated)} names occur twice: {first_few(repeated)}")
    return pairs


def _is_header(rows: Sequence[Row]) -> bool:
    """Return whether the first of two rows, unlike the second, names no files."""
    are_paths = [
        any(Path(cell).suffix.lower() in IMAGE_SUFFIXES for cell in row.cells) for row in rows[:2]
    ]
    return are_paths == [False, True] and len(rows[0].cells) == len(rows[1].cells) == 2


_FILE_WORDS = ("", "s", "path", "file", "filename", "name")
_LIST_COLUMNS = {
    name: [word + ending for word in words for ending in _FILE_WORDS]
    for name, words in {
        "image": ("image", "img", "photo", "picture", "input", "frame", "rgb", "file", "path"),
        "mask": ("mask", "label", "annotation", "segmentation", "seg", "gt", "target"),
    }.items()
}
