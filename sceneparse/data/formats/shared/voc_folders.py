"""The folders of Pascal VOC: JPEGImages, SegmentationClass, lists of splits in ImageSets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sceneparse.data.formats.shared.layouts import MaskPairs, find_pairs
from sceneparse.data.formats.shared.splits import split_named
from sceneparse.errors import InputError
from sceneparse.files import MAX_DESCRIPTION, read_text

# Old versions of labelme2voc write arrays to SegmentationClass.
_MASK_FOLDERS = ("SegmentationClassPNG", "SegmentationClass")


def voc_root(source: Path) -> Path | None:
    """Return the folder with SegmentationClass: the source, or VOCdevkit/VOC2012 below it."""
    places = [source, *sorted(source.glob("VOC*")), *sorted(source.glob("VOCdevkit/VOC*"))]
    return next((place for place in places if (place / "SegmentationClass").is_dir()), None)


def voc_pairs(source: Path, images: Path | None) -> MaskPairs:
    """Return the images with masks and their splits; raises InputError."""
    root = voc_root(source) or source
    masks = next((root / n for n in _MASK_FOLDERS if any((root / n).glob("**/*.png"))), root)
    images = images or next(
        (f for f in (root / "JPEGImages", root.parent / "JPEGImages") if f.is_dir()), None
    )
    if images is None:
        raise InputError(f"'{root}' has no JPEGImages; give the folder of images with --images")
    found = find_pairs(masks, images)
    split_of = _listed_splits(root / "ImageSets" / "Segmentation")
    if len(set(split_of.values())) < 2:
        return found
    for pair in found.pairs:
        if pair.name not in split_of:
            found.skipped.add("masks that no list in ImageSets/Segmentation names", pair.mask)
    for name in sorted(split_of.keys() - {pair.name for pair in found.pairs}):
        found.skipped.add("names in ImageSets/Segmentation without a mask", name)
    listed = [replace(p, split=split_of[p.name]) for p in found.pairs if p.name in split_of]
    return replace(found, pairs=listed)


def _listed_splits(folder: Path) -> dict[str, str]:
    """Return the split of each name in train.txt, val.txt and test.txt."""
    split_of: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        split = split_named(path.stem)
        if split is None or split == "trainval":
            continue
        for line in read_text(path, MAX_DESCRIPTION).splitlines():
            # CVAT quotes names with spaces; Windows separates folders by backslashes.
            name = line.strip().strip('"').replace("\\", "/")
            if name and split_of.setdefault(name, split) != split:
                raise InputError(
                    f"{path}: '{name}' is listed for split {split_of[name]} too; list it once"
                )
    return split_of
