"""What a format gives: images, how their masks are drawn, classes, and what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

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


def distinctly_named(items: Sequence[Item], split_of: Mapping[Path, str]) -> list[Item]:
    """Put folders before the names if two images of a split have one name; raises InputError."""
    if not _repeated_names(items, split_of):
        return list(items)
    longer = [replace(item, name=f"{item.image.parent.name}/{item.name}") for item in items]
    if repeated := _repeated_names(longer, split_of):
        paths = [item.image for item in longer if item.name == repeated[0]]
        raise InputError(
            f"{len(repeated)} names of images occur twice: {first_few(paths)}; rename one of each, "
            "or convert their folders one by one"
        )
    return longer


def _repeated_names(items: Sequence[Item], split_of: Mapping[Path, str]) -> list[str]:
    """Return the names that several images of a split have."""
    names = Counter((split_of.get(item.image), item.name) for item in items)
    return [name for (_, name), count in names.items() if count > 1]
