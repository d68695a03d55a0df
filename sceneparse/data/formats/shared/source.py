"""What a format gives: images, how their masks are drawn, classes, and what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sceneparse.data.file_names import describe_encoded, key_of_names, storable_stem
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.labels import Color, Labels, ignore_index_for, require_name
from sceneparse.errors import InputError, first_few, refusing


@dataclass(frozen=True)
class Item:
    """An image, its name in the result (may have folders), its split if known, and its mask.

    `draw` returns the mask of train ids (H, W), of the size of the upright image.
    """

    image: Path
    name: str
    draw: Callable[[], Labels]
    split: str | None = None

    def mask(self) -> Labels:
        """Draw the mask; raises InputError naming the image."""
        with refusing(self.image, "its mask cannot be drawn"):
            return self.draw()


@dataclass(frozen=True)
class Source:
    """A dataset in another format. `notes` are lines to print."""

    classes: Sequence[str]
    items: Sequence[Item]
    skipped: Skipped
    colors: Sequence[Color] | None = None
    notes: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.classes:
            require_name(name)
        if repeated := [name for name, n in Counter(self.classes).items() if n > 1]:
            raise InputError(f"class names occur twice: {first_few(repeated)}; give each its own")

    @property
    def ignore_index(self) -> int:
        """The label of pixels that belong to no class."""
        return ignore_index_for(len(self.classes))


def check_images(items: Sequence[Item]) -> None:
    """Raise InputError for no images, missing images, and images that are annotated twice."""
    if not items:
        raise InputError("the source holds no image with annotations; give its folder or --images")
    if missing := [item.image for item in items if not item.image.is_file()]:
        raise InputError(f"{len(missing)} images do not exist: {first_few(missing)}")
    images = Counter(item.image for item in items)
    if repeated := [image for image, count in images.items() if count > 1]:
        raise InputError(
            f"{len(repeated)} images are annotated twice: {first_few(repeated)}; keep one of each"
        )


def with_file_names(source: Source, split_of: Mapping[Path, str], target: Path) -> Source:
    """Return a source whose names are those of files below `target`, and a note on changed names.

    Folders are put before the names if two images of a split have one name, and what Windows
    refuses is encoded. Raises InputError if there still are two of one name.
    """
    items, key = source.items, key_of_names(target)
    if _repeated(items, split_of, key):
        items = [replace(item, name=f"{item.image.parent.name}/{item.name}") for item in items]
    if repeated := _repeated(items, split_of, key):
        raise InputError(
            f"{len(repeated)} names of images occur twice: {first_few(repeated[0])}; rename one of "
            "each, or convert their folders one by one"
        )
    note = describe_encoded(f"{item.name}.png" for item in items)
    items = [replace(item, name=storable_stem(item.name)) for item in items]
    return replace(source, items=items, notes=[*source.notes, *([note] if note else [])])


def _repeated(
    items: Sequence[Item], split_of: Mapping[Path, str], key: Callable[[str], str]
) -> list[list[Path]]:
    """Return the images of each name that several images of a split have."""
    named: dict[tuple[str | None, str], list[Path]] = {}
    for item in items:
        name = split_of.get(item.image), key(storable_stem(item.name))
        named.setdefault(name, []).append(item.image)
    return [images for images in named.values() if len(images) > 1]
