"""Which names in annotations become which classes: ignored ones, the background, --classes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from sceneparse.data.labels import Color, ignore_index_for, require_name
from sceneparse.errors import InputError, first_few
from sceneparse.files import MAX_DESCRIPTION, read_text

BACKGROUND, IGNORE = "background", "__ignore__"
# What annotation tools call these two.
_BACKGROUNDS = {"background", "_background_", "__background__"}
_IGNORED = {"__ignore__", "ignore", "void"}


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
    come from; None: from the annotations themselves. Tables of colours may also say which colours
    are ignored, and which class transparent pixels are.
    """

    names: list[str]
    aliases: dict[str, str] = field(default_factory=dict)
    colors: list[Color] | None = None
    file: Path | None = None
    ignored_colors: list[Color] = field(default_factory=list)
    transparent: str | None = None

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
    given = Classes([]) if file is None else read_classes(file)
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
    """Read the classes in a file, one per line, in order; or those of a name in SHIPPED.

    A line may give a colour: "NAME,R,G,B", "R G B NAME" or "NAME:R,G,B"; "NAME,transparent" is the
    class of transparent pixels. "NAME = CLASS" counts NAME as CLASS. `__ignore__`, comments (#) and
    a header are no classes. Raises InputError.
    """
    rows: list[tuple[str, Color | None]] = []
    aliases: dict[str, str] = {}
    transparent = None
    for text in _lines(file):
        left, equals, right = text.partition(" = ")
        first, comma, last = text.rpartition(",")
        if equals:
            aliases[class_name(left)] = class_name(right)
        elif comma and last.strip().lower() == "transparent":
            transparent = class_name(first)
            rows.append((transparent, None))
        else:
            rows.append(_split_color(text))
    uncolored = [name for name, color in rows if color is None and name != transparent]
    if uncolored == [name for name, _ in rows[:1]] and len(rows) > 2:
        rows, uncolored = rows[1:], []  # a header
    names = [name for name, _ in rows if name != IGNORE]
    colors = [color for name, color in rows if name != IGNORE and color is not None]
    ignored = [color for name, color in rows if name == IGNORE and color is not None]
    if colors and uncolored:
        raise InputError(f"{file}: no colour for {first_few(uncolored)}; give all one, or none")
    classes = Classes(names, aliases, colors or None, file, ignored, transparent)
    _validate(classes)
    return classes


def _validate(classes: Classes) -> None:
    """Raise InputError if the classes of a file make no sense."""
    for name in classes.names:
        require_name(name)
    if not classes.names:
        raise InputError(f"{classes.file}: no class; write one name per line")
    if twice := [name for name, count in Counter(classes.names).items() if count > 1]:
        raise InputError(f"{classes.file}: class '{twice[0]}' occurs twice")
    known = {*classes.names, IGNORE}
    if wrong := [right for right in classes.aliases.values() if right not in known]:
        raise InputError(f"{classes.file}: '= {wrong[0]}' names no class of this file")


def _lines(file: Path) -> list[str]:
    if str(file) in SHIPPED and not file.exists():
        text = (resources.files(__package__) / SHIPPED[str(file)]).read_text(encoding="utf-8")
    else:
        text = read_text(file, MAX_DESCRIPTION)
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]


def _split_color(text: str) -> tuple[str, Color | None]:
    """Split "road, 128, 64, 128" into the name of the class and the colour, if there is one."""
    for pattern in _COLORED:
        found = pattern.fullmatch(text)
        if found and max(int(found[key]) for key in "rgb") <= 255:
            return class_name(found["name"]), (int(found["r"]), int(found["g"]), int(found["b"]))
    return class_name(text), None


_RGB = r"(?P<r>\d+)\s*[,;\s]\s*(?P<g>\d+)\s*[,;\s]\s*(?P<b>\d+)"
_COLORED = (
    re.compile(rf"(?P<name>.*\S)\s*[,;:\t]\s*{_RGB}\s*(::.*)?"),
    re.compile(rf"{_RGB}\s*[,;\s]\s*(?P<name>\S.*)"),
)
# What --classes may name instead of a file.
SHIPPED = {"camvid_11": "camvid_11.txt"}
