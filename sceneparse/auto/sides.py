"""Find classes that a mirror image would swap, such as a left and a right lane."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from sceneparse.data.labels import Labels

# Words for left and right. Short ones must be whole words, also in "LungL".
_WORDS = (
    *(("left", "right"), ("links", "rechts"), ("linke", "rechte"), ("linker", "rechter")),
    *(("linkes", "rechtes"), ("gauche", "droite"), ("gauche", "droit")),
    *(("izquierda", "derecha"), ("izquierdo", "derecho"), ("esquerda", "direita")),
    *(("esquerdo", "direito"), ("sinistra", "destra"), ("sinistro", "destro")),
    *(("lewa", "prawa"), ("lewy", "prawy"), ("lewe", "prawe")),
    *(("sinister", "dexter"), ("sinistra", "dextra"), ("port", "starboard")),
    *(("левый", "правый"), ("левая", "правая"), ("левое", "правое"), ("sol", "sağ")),
    *(("l", "r"), ("lh", "rh"), ("lt", "rt"), ("li", "re"), ("os", "od"), ("lhs", "rhs")),
)
_JOINED = (("left", "right"), ("links", "rechts"), ("左", "右"), ("왼", "오른"))
_TOKEN = re.compile(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+")

# By content: so many images that show both, in so large a part of which one lies on one side, with
# similar pixels (ratio) and mirrored places (distance as part of the image).
_MIN_IMAGES, _MIN_SHARE, _MAX_RATIO, _MAX_DISTANCE = 8, 0.95, 1.5, 0.1

# Places are counted on masks thinned to this length of the shorter side.
_SIDE = 200


class Place(NamedTuple):
    """Pixels of a class in an image, and the centre of these: x and y in 0..1."""

    pixels: int
    x: float
    y: float


def places(mask: Labels, num_classes: int) -> dict[int, Place]:
    """Return where each class of a mask (H, W) lies."""
    step = max(min(mask.shape) // _SIDE, 1)
    small = mask[::step, ::step].astype(np.int64)
    found = {}
    for label in np.unique(small[small < num_classes]).tolist():
        rows, columns = np.nonzero(small == label)
        x, y = (
            float(where.mean() + 0.5) / side
            for where, side in ((columns, small.shape[1]), (rows, small.shape[0]))
        )
        found[label] = Place(len(rows) * step**2, x, y)
    return found


def sided_classes(
    names: Sequence[str], images: Sequence[Mapping[int, Place]]
) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the pairs of classes that a mirror image would swap, and how that was decided.

    `images`: the place of each class in images that do not look alike.
    """
    by_name = [pair for pair in combinations(names, 2) if _named_by_sides(*pair)]
    by_place = [
        (names[first], names[second])
        for first, second in combinations(range(len(names)), 2)
        if (names[first], names[second]) not in by_name and _on_sides(first, second, images)
    ]
    reasons = []
    if by_name:
        reasons.append(f"the names of {_listed(by_name)} differ only by words for left and right")
    if by_place:
        reasons.append(f"{_listed(by_place)} are of one size and lie on fixed sides of each other")
    if not reasons:
        return (), (
            "No two names of classes differ by words for left and right, and no two classes of one "
            f"size lie on fixed sides of each other ({len(images)} training images looked at)."
        )
    text = "; ".join(reasons)
    return (*by_name, *by_place), f"{text[0].upper()}{text[1:]}."


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"'{first}' and '{second}'" for first, second in pairs)


def _named_by_sides(first: str, second: str) -> bool:
    """Return whether two names are equal but for one word for a side."""
    one, other = first.casefold(), second.casefold()
    for left, right in _JOINED:
        if one != other and one.replace(left, right) == other.replace(left, right):
            return True
    ours, theirs = _tokens(first), _tokens(second)
    if len(ours) != len(theirs):
        return False
    different = [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
    return len(different) == 1 and (different[0] in _WORDS or different[0][::-1] in _WORDS)


def _tokens(name: str) -> list[str]:
    return [token.casefold() for token in _TOKEN.findall(name)]


def _on_sides(first: int, second: int, images: Sequence[Mapping[int, Place]]) -> bool:
    """Return whether one class lies left of the other as a mirrored partner would.

    They are shown together mostly, with similar pixels, at mirrored places, and one lies left of
    the other in nearly all images.
    """
    both = [(image[first], image[second]) for image in images if first in image and second in image]
    either = sum(first in image or second in image for image in images)
    if len(both) < max(_MIN_IMAGES, either / 2):
        return False
    ours, theirs = (np.array(places, float).T for places in zip(*both, strict=True))
    ratio = np.median(np.maximum(ours[0], theirs[0]) / np.minimum(ours[0], theirs[0]))
    lefts = (ours[1] < theirs[1]).mean()
    middle = np.median(np.abs(ours[1] + theirs[1] - 1))
    level = np.median(np.abs(ours[2] - theirs[2]))
    apart = np.median(np.abs(ours[1] - theirs[1]))
    return bool(
        ratio <= _MAX_RATIO
        and max(lefts, 1 - lefts) >= _MIN_SHARE
        and max(middle, level) <= _MAX_DISTANCE < apart
    )
