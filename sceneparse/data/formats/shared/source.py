"""What a format gives: images, how their masks are drawn, classes, and what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
