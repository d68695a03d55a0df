"""Which names in annotations become which classes: ignored ones, the background, --classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sceneparse.data.labels import Color, ignore_index_for, require_name
from sceneparse.errors import InputError, first_few
from sceneparse.files import MAX_DESCRIPTION, read_text

BACKGROUND, IGNORE = "background", "__ignore__"
# What annotation tools call these two.
_BACKGROUNDS = {"background", "_background_", "__background__"}
_IGNORED = {"__ignore__", "ignore", "void"}
_HEADERS = {"name", "name,r,g,b"}


def class_name(label: object) -> str:
    """Return the class that a label in annotations means, in NFC: "_background_" -> background."""
    if not isinstance(label, str):
        raise InputError(f"expected the name of a class, got {label!r}")
    name = unicodedata.normalize("NFC", label.strip())
    if name.lower() in _BACKGROUNDS:
        return BACKGROUND
    return IGNORE if name.lower() in _IGNORED else name


def class_name_at(label: object, place: str) -> str:
    """Return the class that a label means, in a shape at `place`; raises InputError naming it."""
    try:
        name = class_name(label)
        require_name(name)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return name


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset, and what other labels are counted as.

    `aliases`: label -> class, `IGNORE` for pixels that are never counted. `file`: where the names
    come from; None: from the annotations themselves.
    """

    names: list[str]
    aliases: dict[str, str]
    colors: list[Color] | None = None
    file: Path | None = None

    @property
    def ignore_index(self) -> int:
        """The index of ignored pixels."""
        return ignore_index_for(len(self.names))

    def index(self, label: str) -> int:
        """Return the index of a label's class; raises InputError for a label of no class."""
        name = class_name(label)
        name = self.aliases.get(name, name)
        if name == IGNORE:
            return self.ignore_index
        if name not in self.names:
            raise InputError(
                f"label '{name}' is no class of {self.file}; add the line '{name}', or "
                f"'{name} = CLASS' to count it as another class, or '{name} = {IGNORE}'"
            )
        return self.names.index(name)


def choose_classes(
    labels: Iterable[str], file: Path | None = None, *, background: bool = True
) -> Classes:
    """Return the classes of the `labels` found in annotations, in their order, or of a file.

    With `background`, pixels on which nothing is drawn are a class: index 0, unless the file has
    it elsewhere. Raises InputError for labels that the file lacks.
    """
    given = Classes([], {}) if file is None else read_classes(file)
    found = dict.fromkeys(map(class_name, labels))
    names = given.names or [name for name in found if name != IGNORE]
    if background and (file is None or BACKGROUND not in names):
        names = [BACKGROUND, *(name for name in names if name != BACKGROUND)]
    classes = Classes(names, given.aliases, given.colors, file)
    unknown = [name for name in found if given.aliases.get(name, name) not in {*names, IGNORE}]
    if unknown:
        raise InputError(
            f"{len(unknown)} labels are not in {file}: {first_few(unknown)}; add a line for each: "
            f"'NAME' for a class, 'NAME = CLASS' to count it as another, 'NAME = {IGNORE}' for none"
        )
    return classes


def read_classes(file: Path) -> Classes:
    """Read --classes: a class per line, in order; "NAME = CLASS" counts NAME as CLASS.

    A line may end in ",R,G,B". `__ignore__` and comments (#) are no classes. Raises InputError.
    """
    colors: dict[str, Color | None] = {}
    aliases: dict[str, str] = {}
    for number, line in enumerate(read_text(file, MAX_DESCRIPTION).splitlines(), start=1):
        text, color = _split_color(line.strip())
        left, equals, right = text.partition(" = ")
        name = class_name(left)
        if equals:
            aliases[name] = class_name(right)
        elif name in colors:
            raise InputError(f"{file}, line {number}: class '{name}' occurs twice")
        elif text and not text.startswith("#") and text.lower() not in _HEADERS:
            require_name(name)
            colors[name] = color
    colors.pop(IGNORE, None)
    names, given = list(colors), [color for color in colors.values() if color is not None]
    if not names:
        raise InputError(f"{file}: no class; write one name per line")
    if wrong := [right for right in aliases.values() if right not in {*names, IGNORE}]:
        raise InputError(f"{file}: '= {wrong[0]}' names no class of this file")
    if len(given) not in {0, len(names)}:
        raise InputError(f"{file}: {len(given)} colours for {len(names)} classes; give all or none")
    return Classes(names, aliases, given or None, file)


def _split_color(text: str) -> tuple[str, Color | None]:
    """Split "road, 128, 64, 128" into the name and the colour, if there is one."""
    parts = [part.strip() for part in text.replace("\t", ",").replace(";", ",").split(",")]
    numbers = parts[-3:]
    if len(parts) < 4 or not all(part.isdecimal() and int(part) <= 255 for part in numbers):
        return text, None
    red, green, blue = map(int, numbers)
    return ",".join(parts[:-3]), (red, green, blue)
