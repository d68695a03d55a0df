"""Masks whose colours stand for classes, and colours outside the table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sceneparse.data.color_codes import code_of, color_of, labels_of_codes
from sceneparse.data.formats.shared.classes import IGNORE, Classes, choose_classes
from sceneparse.data.formats.shared.layouts import MaskPairs
from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.source import Item, Source
from sceneparse.data.labels import Color, Labels
from sceneparse.data.reading import read_colors
from sceneparse.errors import InputError, first_few, unknown_name

UNKNOWN_COLORS = ("error", "ignore", "nearest")


@dataclass(frozen=True)
class ColorTable:
    """The class of each colour, and what is done with colours outside the table.

    `transparent`: the index of fully transparent pixels. `unknown_colors`: one of UNKNOWN_COLORS.
    """

    label_of: Mapping[Color, int]
    ignore_index: int
    transparent: int
    unknown_colors: str
    skipped: Skipped

    def __post_init__(self) -> None:
        if self.unknown_colors not in UNKNOWN_COLORS:
            raise unknown_name("rule for unknown colours", self.unknown_colors, UNKNOWN_COLORS)

    def labels(self, path: Path) -> Labels:
        """Read the mask in a file (H, W); raises InputError for colours outside the table."""
        picture, transparent = read_colors(path)
        codes = {code_of(color): label for color, label in self.label_of.items()}
        labels, unknown = labels_of_codes(picture, codes, transparent)
        if unknown:
            codes |= self._codes_of_unknown(unknown, codes, path)
            labels, _ = labels_of_codes(picture, codes)
        labels[transparent] = self.transparent
        return labels

    def _codes_of_unknown(
        self, unknown: Mapping[int, int], codes: Mapping[int, int], path: Path
    ) -> dict[int, int]:
        if self.unknown_colors == "error":
            described = describe_colors({color_of(code): n for code, n in unknown.items()})
            raise InputError(
                f"{path}: {len(unknown)} colours outside the table: {described}; add "
                "them to the table, or take them as ignored or as the nearest colour with "
                "--unknown-colors ignore or nearest"
            )
        nearest = self.unknown_colors == "nearest"
        kind = "taken as the nearest colour" if nearest else "ignored"
        self.skipped.add(
            f"pixels of colours outside the table, {kind}", path, sum(unknown.values())
        )
        return {c: codes[_nearest(c, codes)] if nearest else self.ignore_index for c in unknown}


def color_source(
    found: MaskPairs, table: Classes, classes: Path | None, unknown_colors: str
) -> Source:
    """Return the source of masks painted in the colours of a table, with the classes of a file."""
    if table.colors is None:
        raise InputError(f"{table.file}: no colours; write a line NAME,R,G,B for each class")
    painted = [name for name in table.names if name != table.transparent]
    own_color = dict(zip(painted, table.colors, strict=True))
    chosen = choose_classes(table.names, classes, background=False)
    label_of = dict.fromkeys(table.ignored_colors, chosen.ignore_index)
    label_of |= {color: chosen.index(name) for name, color in own_color.items()}
    if len(label_of) < len(own_color) + len(table.ignored_colors):
        raise InputError(f"{table.file}: two classes share a colour; give each its own")
    transparent = chosen.index(table.transparent or IGNORE)
    decoder = ColorTable(label_of, chosen.ignore_index, transparent, unknown_colors, found.skipped)
    items = [Item(p.image, p.name, partial(decoder.labels, p.mask), p.split) for p in found.pairs]
    colors = [own_color[name] for name in chosen.names if name in own_color]
    own = colors if len(colors) == len(chosen.names) else None
    return Source(chosen.names, items, found.skipped, chosen.colors or own, found.notes)


def colors_in(path: Path) -> dict[Color, int]:
    """Return the colours of a mask and their pixels, without transparent ones."""
    picture, transparent = read_colors(path)
    codes = labels_of_codes(picture[~transparent][None], {})[1]
    return {color_of(code): count for code, count in codes.items()}


def describe_colors(counts: Mapping[Color, int]) -> str:
    """Return the most frequent colours and their pixels, as text."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return first_few(f"{color} ({count} px)".replace(", ", ",") for color, count in ranked)


def _nearest(code: int, codes: Collection[int]) -> int:
    def distance(other: int) -> int:
        return sum(((code >> shift & 255) - (other >> shift & 255)) ** 2 for shift in (0, 8, 16))

    return min(codes, key=distance)
