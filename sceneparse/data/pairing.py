"""Find image files below a folder, and pair images with masks by their names."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sceneparse.data.name_rules import (
    IMAGE_WORDS,
    MASK_WORDS,
    find_rule,
    find_rule_in_one_folder,
    markers,
    names_with,
)
from sceneparse.errors import InputError, first_few, refusing
from sceneparse.files import SYSTEM_FILES

IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif"),
    *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
}
# What operating systems and file servers leave in folders of pictures.
_LITTER = {*SYSTEM_FILES, "__macosx", "@eadir", "$recycle.bin"}


@dataclass(frozen=True)
class Pair:
    """An image, its mask, and the name of both in tables and output files."""

    image: Path
    mask: Path
    name: str


@dataclass(frozen=True)
class Pairing:
    """Pairs of images and masks; a partner that is missing is a path without a file.

    `rule`: how their names differ, as a printable text; None if they are equal. `skipped`: the
    files that are no images, counted by kind.
    """

    pairs: tuple[Pair, ...]
    rule: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)


def find_images(
    folder: Path,
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    *,
    uncounted: Callable[[Path], bool] = lambda _: False,
) -> tuple[list[Path], Counter[str]]:
    """Find the files with these suffixes in a folder and all folders below it, sorted.

    Links to folders are followed, but not to a folder that they lie in. Hidden files and folders
    are skipped. Returns the files, and what was skipped, counted by suffix or name, without the
    files for which `uncounted` is true. Raises InputError for a folder that is missing or cannot be
    read.
    """
    if not folder.is_dir():
        raise InputError(f"folder '{folder}' does not exist; check data.root and the split")
    found: list[Path] = []
    skipped = Counter[str]()
    with refusing(folder, "cannot be read"):
        for path, kind in _walk(folder, (Path(os.path.realpath(folder)),), suffixes):
            if kind is None:
                found.append(path)
            elif not uncounted(path):
                skipped[kind] += 1
    # By their parts, because Windows would sort paths without regard to capitals.
    return sorted(found, key=lambda path: path.parts), skipped


def _walk(
    folder: Path, above: tuple[Path, ...], suffixes: Collection[str]
) -> Iterator[tuple[Path, str | None]]:
    """Yield all files, and the kind of those that are skipped; `above`: real paths on the way."""
    with os.scandir(folder) as entries:
        inside = list(entries)
    for entry in inside:
        path = folder / entry.name
        if is_hidden(entry.name):
            yield path, "._*" if entry.name.startswith("._") else entry.name
        elif not (os.path.isdir(path) if entry.is_symlink() else entry.is_dir()):  # noqa: PTH112
            suffix = path.suffix.lower()
            yield path, None if suffix in suffixes else suffix or "without suffix"
        else:
            real = Path(os.path.realpath(path))
            if any(passed.is_relative_to(real) for passed in above):
                yield path, "links to a folder above"
            else:
                yield from _walk(path, (*above, real), suffixes)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is no data: hidden, or made by the system."""
    return name.startswith(".") or name.lower() in _LITTER


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return the counts of find_images as text: "3 .txt, 1 Thumbs.db"."""
    order = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return first_few((f"{count} {kind}" for kind, count in order), 10)


def relative_name(folder: Path, path: Path) -> str:
    """Return the name of a sample: its path below the folder without suffix, "city/x".

    Unicode is normalised (NFC), because macOS may write the same name in another form.
    """
    name = path.relative_to(folder).with_suffix("").as_posix()
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def pair_folders(images: Path, masks: Path) -> Pairing:
    """Pair the images and masks of two folders, or those in one folder, by their names.

    Names are paths below the folder without suffix. If they differ, one rule is looked for that
    pairs all files, such as x.jpg with x_mask.png. Otherwise equal names are paired, and partners
    may be missing. Raises InputError for two images or two masks of one name, two masks that fit
    one image, and two rules that pair the files differently.
    """
    found, skipped = find_images(images)
    if os.path.realpath(images) == os.path.realpath(masks):
        return _pair_one_folder(images, _by_name(images, found), skipped)
    mask_files, skipped_masks = find_images(masks)
    by_name = _by_name(images, found), _by_name(masks, mask_files)
    matches: Mapping[str, str] = {name: name for name in by_name[0] if name in by_name[1]}
    rule = None
    if not matches or len(matches) < len(by_name[0]) == len(by_name[1]):
        rule = find_rule(*by_name, partial=not matches)
    if rule is not None:
        matches = rule.matches
    _require_one_mask(*by_name, matches)
    pairs = _pairs((images, masks), *by_name, matches)
    return Pairing(pairs, None if rule is None else str(rule), skipped + skipped_masks)


def _pair_one_folder(folder: Path, files: dict[str, Path], skipped: Counter[str]) -> Pairing:
    """Pair images with masks in the same folder, by what only the names of masks have."""
    rule = find_rule_in_one_folder(files)
    if rule is None:
        raise InputError(_not_told_apart(folder, files.values()))
    names = names_with(rule.mask, files)
    masks = {name: path for name, path in files.items() if name in names}
    images = {name: path for name, path in files.items() if name not in names}
    _require_one_mask(images, masks, rule.matches)
    return Pairing(_pairs((folder, folder), images, masks, rule.matches), str(rule), skipped)


def _not_told_apart(folder: Path, files: Iterable[Path]) -> str:
    names = sorted({path.parent.relative_to(folder).as_posix() for path in files})
    if len(names) == 1:
        return (
            f"{folder}: images and masks are in one folder, and no part of their names tells them "
            "apart; name masks e.g. x_mask.png, or put them into a folder of their own"
        )
    return (
        f"{folder}: neither the names of its folders ({first_few(names)}) nor those of the files "
        "tell which are masks; rename the folders to images and masks, or the masks to x_mask.png"
    )


def _by_name(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    twice = []
    for path in files:
        name = relative_name(folder, path)
        if name in named:
            twice.append(f"{name} ({named[name].name}, {path.name})")
        named[name] = path
    if twice:
        raise InputError(f"{folder}: {len(twice)} names occur twice: {first_few(twice)}")
    return named


def _pairs(
    folders: tuple[Path, Path],
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    matches: Mapping[str, str],
) -> tuple[Pair, ...]:
    """Return a pair for every image, then for every mask without an image."""
    paired = [
        Pair(path, masks.get(matches.get(name, ""), folders[1] / f"{name}.png"), name)
        for name, path in images.items()
    ]
    alone = masks.keys() - matches.values()
    return (
        *paired,
        *(Pair(folders[0] / f"{name}.jpg", masks[name], name) for name in masks if name in alone),
    )


def _require_one_mask(
    images: Mapping[str, Path], masks: Mapping[str, Path], matches: Mapping[str, str]
) -> None:
    """Raise InputError if a mask that is not paired fits an image that has another mask."""
    alone = masks.keys() - matches.values()
    if not alone:
        return
    image_of = {core: name for name in images for core in markers(name, IMAGE_WORDS).values()}
    image_of |= {name: name for name in images}
    mask_of = {image: masks[mask] for image, mask in matches.items()}
    for name in sorted(alone):
        fitting = {image_of.get(core) for core in markers(name, MASK_WORDS).values()} - {None}
        for image in sorted(filter(None, fitting)):
            other = mask_of.setdefault(image, masks[name])
            if other != masks[name]:
                raise InputError(
                    f"two masks fit the image {images[image]}: {other.name} and "
                    f"{masks[name].name}; leave one of them in the folder"
                )
