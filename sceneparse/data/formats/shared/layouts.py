"""Where the images and masks of a folder are: images/ and masks/, train/ and train_labels/, ..."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from sceneparse.data.formats.shared.skipped import Skipped
from sceneparse.data.formats.shared.splits import split_named
from sceneparse.data.pairing import Pair, find_images, pair_folders
from sceneparse.errors import InputError, first_few

_MASKS = (
    r"masks?|labels?|labell?ed|ann(?:ot(?:ation)?)?s?|ground[_ -]?truths?|gts?|seg(?:mentation)?s?"
    r"|semantics?|targets?|trimaps?"
)
_IMAGES = r"images?|imgs?|photos?|pictures?|pics?|rgb|inputs?|jpegimages|raw"
# A word at the start or end of a folder's name, separate from the rest; long ones also joined.
_MASK_WORD = re.compile(
    rf"^(?:{_MASKS})(?=$|[_\-. ]|[A-Z])[_\-. ]?|(?:^|[_\-. ])(?i:{_MASKS})$"
    r"|(?i:annot(?:ation)?s?|masks?|labels?)$|^(?:Mask|Label(?:l?ed)?|Annotation)s?(?=[A-Z_])"
)
_IMAGE_WORD = re.compile(rf"(?i)^(?:{_IMAGES})(?=$|[_\-. ])[_\-. ]?|(?:^|[_\-. ])(?:{_IMAGES})$")

Key = tuple[str, ...]


@dataclass(frozen=True)
class MaskPair:
    """An image and its mask, the name of both, and the split if a folder is named so."""

    image: Path
    mask: Path
    name: str
    split: str | None


@dataclass(frozen=True)
class MaskPairs:
    """Images with masks, lines about how they were paired, and the files that were skipped."""

    pairs: list[MaskPair]
    notes: list[str] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)


def find_pairs(source: Path, images: Path | None) -> MaskPairs:
    """Return all images with masks of a folder; images without a mask are skipped.

    `images`: the folder of the images, if it is known. Raises InputError if the masks cannot be
    told from the images, or lack images.
    """
    pairs: list[MaskPair] = []
    rules: list[str] = []
    for image_folder, mask_folder, key in _folders(source, images):
        pairing = pair_folders(image_folder, mask_folder)
        split = next((s for part in reversed(key) if (s := split_named(part))), None)
        rules += [pairing.rule] if pairing.rule else []
        _require_images(pairing.pairs, image_folder)
        pairs += [_with_split(pair, split) for pair in pairing.pairs if pair.mask.is_file()]
    notes = [f"images and masks are paired by their names: {rule}" for rule in rules[:3]]
    found = MaskPairs(pairs, notes)
    used = {path.absolute() for pair in pairs for path in (pair.image, pair.mask)}
    # The folder of the images may lie in the source, and one of them may be absolute.
    folders = dict.fromkeys((source, images or source))
    files = {path.absolute(): path for folder in folders for path in find_images(folder)[0]}
    for absolute, path in files.items():
        if absolute not in used:
            found.skipped.add("image files without a partner", path)
    return found


def _require_images(pairs: tuple[Pair, ...], folder: Path) -> None:
    alone = [pair.mask.name for pair in pairs if not pair.image.is_file()]
    if alone:
        raise InputError(
            f"{len(alone)} masks have no image in {folder}: {first_few(alone)}; add the images, "
            "or give their folder with --images"
        )


def _with_split(pair: Pair, split: str | None) -> MaskPair:
    """Take the split from the first folder of the name, if that is one and no other is known."""
    first, slash, rest = pair.name.partition("/")
    if split is None and slash and (named := split_named(first)):
        return MaskPair(pair.image, pair.mask, rest, named)
    return MaskPair(pair.image, pair.mask, pair.name, split)


def _folders(source: Path, images: Path | None) -> Iterator[tuple[Path, Path, Key]]:
    """Yield the folders of images and masks that belong together, and what their names share."""
    holding = sorted({path.parent.relative_to(source) for path in find_images(source)[0]})
    roots = sorted({root for folder in holding if (root := _mask_root(folder)) is not None})
    if images is not None:
        yield images, source / roots[0] if len(roots) == 1 else source, ()
        return
    if not roots:
        yield source, source, ()
        return
    others = [folder for folder in holding if _mask_root(folder) is None]
    for root in roots:
        key = _key(root)
        inner = _common([folder for folder in holding if _mask_root(folder) == root])
        nested = all(_key(other) != _key(inner) for other in others)  # annotations/trimaps
        above = {folder for other in others for folder in (other, *other.parents)}
        fitting = sorted((f for f in above if _key(f) == key), key=lambda f: len(f.parts))
        is_sure = fitting and (fitting[-1] in others or not nested)
        if not is_sure and len(roots) == 1 and others:
            fitting = [_common(others)]
        if not fitting:
            raise InputError(
                f"no folder of images belongs to the masks in {source / root}; give it with "
                "--images, or name both alike, e.g. images/train and masks/train"
            )
        yield source / fitting[-1], source / (inner if nested else root), key


def _mask_root(folder: PurePath) -> Path | None:
    """Return the part of a path up to its last folder with a name for masks, e.g. masks or labels.

    None if there is none, or if a folder below it has a name for images: labelled/images.
    """
    for count in range(len(folder.parts), 0, -1):
        if _MASK_WORD.search(folder.parts[count - 1]):
            return Path(*folder.parts[:count])
        if _IMAGE_WORD.search(folder.parts[count - 1]):
            return None
    return None


def _key(folder: PurePath) -> Key:
    """Return what remains of a path without the words for images and masks."""
    parts = (_IMAGE_WORD.sub("", _MASK_WORD.sub("", part)).strip("_-. ") for part in folder.parts)
    return tuple(part for part in parts if part)


def _common(folders: list[Path]) -> Path:
    parts = []
    for level in zip(*(folder.parts for folder in folders), strict=False):
        if len(set(level)) > 1:
            break
        parts.append(level[0])
    return Path(*parts)
