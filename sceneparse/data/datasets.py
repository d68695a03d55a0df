"""Dataset layouts: functions (root, split) -> image and mask pairs, and a table of their names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sceneparse.data.decoding import decode
from sceneparse.data.labels import (
    Labels,
    LabelTable,
    folder_table,
    load_label_table,
    require_own_classes,
)
from sceneparse.data.list_files import MAX_LIST_SIZE, listed_pairs
from sceneparse.data.pairing import (
    Pair,
    describe_skipped,
    is_hidden,
    pair_folders,
    relative_name,
)
from sceneparse.data.reading import image_size, read_image, read_labels
from sceneparse.data.resizing import Resize, resize_image, resize_mask
from sceneparse.data.tables import TABLE_SUFFIXES
from sceneparse.errors import InputError, first_few, unknown_name
from sceneparse.files import inside, is_file, read_text
from sceneparse.runtime.shell import command_line

MASK_FOLDERS = ("labels", "masks", "annotations")
ADE20K_SPLITS = {"train": "training", "val": "validation"}
# Folders of Pascal VOC 2010 in a root that is none of them.
VOC_FOLDERS = ("VOCdevkit/VOC2010", "VOC2010")

logger = logging.getLogger(__name__)

Sample = tuple[NDArray[np.uint8], Labels, str]


class SegmentationDataset:
    """Reads samples on demand: image uint8 RGB (H, W, 3), mask of train ids (H, W), name.

    `table`: the classes. `bit_depth`: the bits that 16-bit images use, see read_image. `resize`:
    scale image and mask; None: as in the files.
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        table: LabelTable,
        bit_depth: int | None = None,
        resize: Resize | None = None,
    ) -> None:
        self.pairs = tuple(pairs)
        self.table = table
        self.bit_depth = bit_depth
        self.resize = resize

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, (raw, transparent) = read_image(pair.image, self.bit_depth), read_labels(pair.mask)
        if image.shape[:2] != raw.shape:
            raise _sizes_differ(pair, image.shape[:2], raw.shape)
        mask = encode_mask(self.table, raw, transparent, pair.mask)
        if self.resize is not None:
            size = self.resize.size(*mask.shape)
            image, mask = resize_image(image, size), resize_mask(mask, size)
        return image, mask, pair.name

    def mask(self, index: int) -> Labels:
        """Read only the mask of a sample: train ids (H, W)."""
        path = self.pairs[index].mask
        mask = encode_mask(self.table, *read_labels(path), path)
        return mask if self.resize is None else resize_mask(mask, self.resize.size(*mask.shape))

    def sizes(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """Return the heights and widths of samples, from the headers of images."""
        sizes = [image_size(self.pairs[index].image) for index in indices]
        return sizes if self.resize is None else [self.resize.size(*size) for size in sizes]

    def resized(self, resize: Resize | None) -> SegmentationDataset:
        """Return the same samples, resized."""
        return SegmentationDataset(self.pairs, self.table, self.bit_depth, resize)


def encode_mask(
    table: LabelTable, raw: Labels, transparent: NDArray[np.bool_], path: Path
) -> Labels:
    """Map the raw labels of a file to train ids (H, W); transparent pixels are ignored."""
    hides = bool(transparent.any())
    if hides:  # whatever value they hide
        raw = np.where(transparent, table.labels[0].raw_id, raw)
    try:
        labels = table.encode(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if hides:
        labels[transparent] = table.ignore_index
    return labels


def _sizes_differ(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> InputError:
    """Return the error for a mask (H, W) that is not as large as its image (H, W)."""
    orientation = decode(pair.image).orientation
    if mask == image[::-1] and orientation in _REMEDIES:
        return InputError(
            f"{pair.mask}: the image {pair.image} is stored sideways (EXIF orientation "
            f"{orientation}) and this mask fits the stored pixels; {_REMEDIES[orientation]}, as "
            "viewers show the image"
        )
    return InputError(
        f"{pair.mask}: mask is {mask[1]}x{mask[0]} "
        f"but the image {pair.image} is {image[1]}x{image[0]}"
    )


# What turns a mask of the stored pixels as EXIF turns its image.
_REMEDIES = {
    5: "mirror the mask left to right and rotate it 90 degrees counter-clockwise",
    6: "rotate the mask 90 degrees clockwise",
    7: "mirror the mask left to right and rotate it 90 degrees clockwise",
    8: "rotate the mask 90 degrees counter-clockwise",
}


def spread(size: int, limit: int) -> list[int]:
    """Return at most `limit` indices, evenly spread over 0..size-1."""
    return sorted({int(index) for index in np.linspace(0, size - 1, min(size, limit)).round()})


def classes_unless_named(name: str, root: str | Path, known: Sequence[str]) -> list[str] | None:
    """Return the classes `known` to a model for a folder without classes.txt; otherwise None."""
    unnamed = name == "folder" and not (Path(root) / "classes.txt").is_file()
    return list(known) if unnamed else None


def create_dataset(
    dataset: str,
    root: str | Path,
    split: str,
    classes: Sequence[str] | None = None,
    *,
    complete: bool = True,
    bit_depth: int | None = None,
) -> SegmentationDataset:
    """Return a split of a dataset: "train", "val", ... or a list file below `root`.

    `dataset`: a name of DATASETS. `classes`: names of the classes of dataset "folder", instead of
    ROOT/classes.txt. `complete`: whether every image must have a mask, and every mask an image.
    `bit_depth`: the bits that 16-bit images use, see read_image. Raises InputError for an unknown
    dataset, missing folders or files, and a classes.txt that contradicts the dataset's table.
    """
    if dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    root = Path(root).expanduser()
    _require_folder(root)
    inside(root, split, "the split")
    split = split.replace("\\", "/")
    if classes is not None and dataset != "folder":
        raise InputError(
            f"data.classes is for dataset 'folder' only; '{dataset}' has its own table"
        )
    table = folder_table(root, classes) if dataset == "folder" else load_label_table(dataset)
    if dataset != "folder":
        require_own_classes(root, dataset, table)
    listed = split.lower().endswith(TABLE_SUFFIXES)
    pairs = listed_pairs(root, root / split) if listed else DATASETS[dataset](root, split)
    if not pairs:
        raise InputError(f"split '{split}' of {root} is empty")
    if complete:
        _require_complete(pairs)
    if dataset == "cityscapes" and pairs[0].mask.stem.endswith("_labelTrainIds"):
        table = table.of_train_ids()
    return SegmentationDataset(pairs, table, bit_depth)


def _require_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise InputError(f"'{root}' is a file; give the folder of the dataset")
    raise InputError(
        f"data folder '{root}' does not exist; give the folder of a dataset (data.root or --data)"
    )


def _folder_pairs(root: Path, split: str) -> list[Pair]:
    """Pair ROOT/SPLIT/{images,labels} or ROOT/{images,labels}/SPLIT; labels as MASK_FOLDERS."""
    for place in ("{split}/{kind}", "{kind}/{split}"):
        images = root / place.format(split=split, kind="images")
        if not images.is_dir():
            continue
        for kind in MASK_FOLDERS:
            masks = root / place.format(split=split, kind=kind)
            if masks.is_dir():
                return _paired(images, masks)
        missing = f"no mask folder beside {images}; expected one of {', '.join(MASK_FOLDERS)}"
        return _paired_in_one(images, missing)
    there = sorted({path.parent.name for path in root.glob("*/images") if path.is_dir()})
    missing = (
        f"no split '{split}' in {root}; "
        + (f"there are {first_few(there)}; " if there else "")
        + f"expected {split}/images and {split}/labels, or images/{split} and labels/{split}"
    )
    if not there:
        convert = command_line(["sceneparse", "convert", str(root), "NEW_FOLDER"])
        missing += f"; to split images and masks: {convert}"
    if not (root / split).is_dir():
        raise InputError(missing)
    return _paired_in_one(root / split, missing)


def _camvid_pairs(root: Path, split: str) -> list[Pair]:
    """Pair SPLIT and SPLITannot of SegNet's 480x360 release; or SPLIT/images and SPLIT/labels."""
    if (root / f"{split}annot").is_dir():
        return _paired(root / split, root / f"{split}annot")
    return _folder_pairs(root, split)


def _cityscapes_pairs(root: Path, split: str) -> list[Pair]:
    """Pair leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/.../*_gtFine_labelIds.png.

    Without labelIds, the *_labelTrainIds.png of the official scripts are used.
    """
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    if not images.is_dir():
        raise InputError(f"folder '{images}' does not exist; check data.root and the split")
    used = (end for end in _CITYSCAPES_MASKS if any(masks.glob(f"*/*{end}")))
    ending = next(used, _CITYSCAPES_MASKS[0])
    stems = {
        path.relative_to(folder).as_posix().removesuffix(end)
        for folder, end in ((images, "_leftImg8bit.png"), (masks, ending))
        for path in folder.glob(f"*/*{end}")
        if not is_hidden(path.name)
    }
    return [
        Pair(images / f"{stem}_leftImg8bit.png", masks / f"{stem}{ending}", stem.split("/")[1])
        for stem in sorted(stems)
    ]


_CITYSCAPES_MASKS = ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")


def _ade20k_pairs(root: Path, split: str) -> list[Pair]:
    """Pair images/{training,validation}/*.jpg and annotations/.../*.png of ADEChallengeData2016."""
    root = _inner(root, "ADEChallengeData2016")
    folder = ADE20K_SPLITS.get(split, split)
    return _paired(root / "images" / folder, root / "annotations" / folder)


def _pascal_context_pairs(root: Path, split: str) -> list[Pair]:
    """Pair VOC2010 images with SegmentationClassContext/*.png (60 ids), as ImageSets lists them."""
    root = _inner(root, *VOC_FOLDERS)
    split_file = context_list(root, split)
    pairs = []
    for name in read_names(split_file):
        image = inside(root / "JPEGImages", f"{name}.jpg", split_file)
        mask = inside(root / "SegmentationClassContext", f"{name}.png", split_file)
        pairs.append(Pair(image, mask, relative_name(root / "JPEGImages", image)))
    return pairs


def context_list(root: Path, split: str) -> Path:
    """Return the list of a split of Pascal Context, in a folder of VOC 2010."""
    return root / "ImageSets" / "SegmentationContext" / f"{split}.txt"


def read_names(listing: Path) -> list[str]:
    """Return the names that a list has, one per line; raises InputError."""
    return [*filter(None, map(str.strip, read_text(listing, MAX_LIST_SIZE).splitlines()))]


def _paired(images: Path, masks: Path) -> list[Pair]:
    """Pair two folders by names, and log how, and which files were skipped."""
    pairing = pair_folders(images, masks)
    if pairing.rule is not None:
        logger.info(f"{images}: the names of images and masks differ; paired {pairing.rule}")
    if pairing.skipped:
        logger.info(f"{images}: skipped {describe_skipped(pairing.skipped)}")
    return list(pairing.pairs)


def _paired_in_one(folder: Path, missing: str) -> list[Pair]:
    """Pair images and masks in the same folder; otherwise raise InputError with what is missing."""
    try:
        return _paired(folder, folder)
    except InputError as error:
        raise InputError(f"{missing}; {error}") from error


def _inner(root: Path, *candidates: str) -> Path:
    return next((root / name for name in candidates if (root / name).is_dir()), root)


def _require_complete(pairs: Sequence[Pair]) -> None:
    found = [(pair, is_file(pair.image), is_file(pair.mask)) for pair in pairs]
    absent = [pair.image for pair, has_image, has_mask in found if not has_image and not has_mask]
    if absent:
        raise InputError(
            f"{len(absent)} listed samples have neither image nor mask: {first_few(absent)}"
        )
    no_mask = [(pair.image.name, pair.mask) for pair, _, has_mask in found if not has_mask]
    no_image = [(pair.mask.name, pair.image) for pair, has_image, _ in found if not has_image]
    for problem, alone in (("images have no mask", no_mask), ("masks have no image", no_image)):
        if alone:
            names = first_few(name for name, _ in alone)
            raise InputError(f"{len(alone)} {problem}: {names}; expected e.g. {alone[0][1]}")


# All but "folder" have a label table of the same name in labels/.
DATASETS: dict[str, Callable[[Path, str], list[Pair]]] = {
    "folder": _folder_pairs,
    "camvid": _camvid_pairs,
    "cityscapes": _cityscapes_pairs,
    "ade20k": _ade20k_pairs,
    "pascal_context_59": _pascal_context_pairs,
    "pascal_context_60": _pascal_context_pairs,
}
