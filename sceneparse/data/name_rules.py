"""Rules by which names of images and masks differ: x with x_mask, image_x with label_x, ..."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sceneparse.errors import InputError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that tell masks from images in names like x_mask, gt_x or x_gtFine_labelIds.
MASK_WORDS = _words(
    "mask masks masked label labels labeled labelled labelid labelids labeltrainids lbl lab l "
    "gt ground truth groundtruth fine coarse seg segs segm segment segments segmented segmap "
    "segmentation segmentations annot annots anno annos ann annotation annotations annotated "
    "target targets manual semantic semantics sem parse parsing matte class classes index indices "
    "id ids train trainid trainids pixel color colour binary bin palette map"
)
IMAGE_WORDS = _words(
    "image images img imgs im rgb bgr sat satellite photo photos foto pic pics picture pictures "
    "input inputs orig original raw src source frame cam camera color colour left bit scan slice "
    "tile patch crop anon ortho orthophoto scene training test"
)
_ALL_WORDS = MASK_WORDS | IMAGE_WORDS
# Words that are also found if they are joined to another one, as in xmask.
_LONG_WORDS = ("mask", "label", "image", "annotation", "segmentation")
_LAST_WORDS = (*_LONG_WORDS, *(f"{word}s" for word in _LONG_WORDS))
_PIECE = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]")
_SEPARATORS = "_-. "


class Marker(NamedTuple):
    """A run of words in names, in lower case, and its place: "start", "end" or "middle"."""

    words: str
    place: str


@dataclass(frozen=True)
class Rule:
    """A way to pair: without their markers the names of an image and its mask are equal.

    `mask`: the marker of masks. `matches`: the name of an image -> the name of its mask.
    """

    mask: Marker | None
    matches: Mapping[str, str]

    def __str__(self) -> str:
        image, mask = min(self.matches.items())
        return f"'{image}' with '{mask}'"


def find_rule(images: Collection[str], masks: Collection[str], *, partial: bool) -> Rule | None:
    """Find the rule that pairs all names; None if there is none.

    `partial`: if there is none, find the one that pairs most names, more than half of the images or
    of the masks. Raises InputError for two rules that pair the names differently.
    """
    rules = _rules(images, masks)
    complete = [rule for rule in rules if len(rule.matches) == len(images) == len(masks)]
    fewer = min(len(images), len(masks))
    most = [rule for rule in rules if partial and 2 * len(rule.matches) > fewer]
    return _best(complete or most)


def find_rule_in_one_folder(names: Collection[str]) -> Rule | None:
    """Find the rule that pairs most names of a folder of images and masks."""
    rules = []
    for marker in filter(None, _cores_by_marker(names, MASK_WORDS, len(names) // 20)):
        masks = names_with(marker, names)
        found = _rules([name for name in names if name not in masks], masks)
        rules += [r for r in found if r.mask == marker and 2 * len(r.matches) > len(masks)]
    return _best(rules)


def names_with(marker: Marker | None, names: Iterable[str]) -> set[str]:
    """Return the names of masks that have this marker."""
    return {name for name in names if marker in markers(name, MASK_WORDS)}


def markers(name: str, words: Collection[str]) -> dict[Marker, str]:
    """Return the runs of such words in the last part of a name, each with the rest of the name."""
    split = name.rfind("/") + 1
    folder, base = name[:split], name[split:]
    found = {}
    for run, start, end in _runs(base, words):
        before, after = base[:start].rstrip(_SEPARATORS), base[end:].lstrip(_SEPARATORS)
        if end == len(base):
            found[Marker(run, "end")] = folder + before
        elif start == 0:
            found[Marker(run, "start")] = folder + after
        elif base[start - 1] in _SEPARATORS and base[end] in _SEPARATORS:
            found[Marker(run, "middle")] = folder + before + base[start - 1] + after
    return found


def _best(rules: list[Rule]) -> Rule | None:
    """Return the rule that pairs the most names; InputError for two that pair them differently."""
    most = max((len(rule.matches) for rule in rules), default=0)
    best = [rule for rule in rules if len(rule.matches) == most]
    for other in best[1:]:
        if other.matches != best[0].matches:
            raise InputError(
                f"two rules pair the images and masks differently: {best[0]}, or {other}; "
                "give each mask the name of its image"
            )
    return best[0] if best else None


def _rules(images: Collection[str], masks: Collection[str]) -> list[Rule]:
    """Return all rules by which some names match."""
    rules = []
    of_images = _cores_by_marker(images, IMAGE_WORDS, len(images) // 2)
    of_masks = _cores_by_marker(masks, MASK_WORDS, len(masks) // 2)
    for image_marker, image_cores in of_images.items():
        for mask_marker, mask_cores in of_masks.items():
            shared = image_cores.keys() & mask_cores.keys()
            if shared and (image_marker or mask_marker):
                matches = {image_cores[core]: mask_cores[core] for core in shared}
                rules.append(Rule(mask_marker, matches))
    return rules


def _cores_by_marker(
    names: Collection[str], words: Collection[str], at_least: int
) -> dict[Marker | None, dict[str, str]]:
    """Return rest of the name -> name, for each marker that at least `at_least` names have.

    The key None has whole names. A marker is skipped if two names have the same rest without it.
    """
    found: dict[Marker | None, list[tuple[str, str]]] = {}
    for name in names:
        for marker, core in ((None, name.strip(_SEPARATORS)), *markers(name, words).items()):
            found.setdefault(marker, []).append((core, name))
    frequent = {marker: pairs for marker, pairs in found.items() if len(pairs) >= at_least}
    cores = {marker: dict(pairs) for marker, pairs in frequent.items()}
    return {marker: named for marker, named in cores.items() if len(named) == len(frequent[marker])}


def _runs(base: str, words: Collection[str]) -> Iterator[tuple[str, int, int]]:
    """Yield all runs of such words, in lower case, with their start and end in the name."""
    pieces = list(_pieces(base))
    for first, (start, _) in enumerate(pieces):
        run, end = "", start
        for begin, stop in pieces[first:]:
            text = base[begin:stop].lower()
            belongs = text.isdecimal() and run and begin == end  # mask1, leftImg8bit
            if text not in words and not belongs:
                break
            run, end = f"{run} {text}".strip(), stop
            yield run, start, end


def _pieces(base: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of the words and numbers of a name: left, Img, 8, bit; x, mask."""
    for match in _PIECE.finditer(base):
        start, end = match.span()
        text = match.group().lower()
        if text in _ALL_WORDS or text.isdecimal():
            yield start, end
            continue
        first = next((len(word) for word in _LONG_WORDS if text.startswith(word)), 0)
        last = next((len(word) for word in _LAST_WORDS if text.endswith(word)), 0)
        middle = end - last if last else start + first
        if middle > start:
            yield start, middle
        yield middle, end
