"""Find masks and what their values mean, in a folder of masks or in the root of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sceneparse.data.datasets import (
    ADE20K_SPLITS,
    DATASETS,
    MASK_FOLDERS,
    VOC_FOLDERS,
    context_list,
    read_names,
)
from sceneparse.data.labels import (
    LabelTable,
    folder_table,
    load_label_table,
    require_own_classes,
)
from sceneparse.data.list_files import MAX_LIST_SIZE
from sceneparse.data.pairing import find_images, relative_name
from sceneparse.errors import InputError, first_few, unknown_name
from sceneparse.files import read_text

_IN_SPLITS = tuple(
    place for kind in MASK_FOLDERS for place in ("{split}/" + kind, kind + "/{split}")
)
# Where the masks of a split are, in the root of each dataset.
_PLACES: dict[str, Sequence[str]] = {
    "cityscapes": ("gtFine/{split}", "gtCoarse/{split}"),
    "ade20k": ("annotations/{ade}", "ADEChallengeData2016/annotations/{ade}"),
    "camvid": ("{split}annot", *_IN_SPLITS),
    "folder": _IN_SPLITS,
}
# Folders of images, which are no masks.
_IMAGES = {"images", "leftImg8bit", "JPEGImages"}
# Files beside Cityscapes' masks of labels.
_CITYSCAPES_ENDS = ("_labelIds", "_labelTrainIds")


@dataclass(frozen=True)
class Truth:
    """The masks, by name, and the table of their values."""

    masks: Mapping[str, Path]
    table: LabelTable
    dataset: str


def find_truth(place: Path, dataset: str | None, split: str | None, classes: Path | None) -> Truth:
    """Return the masks of a folder, or of the split of a dataset whose root it is.

    `dataset`: a name of DATASETS; None: Cityscapes by its file names, or a folder with classes.txt.
    `classes`: a file with a class name per line. Raises InputError.
    """
    if dataset is not None and dataset not in DATASETS:
        raise unknown_name("dataset", dataset, DATASETS)
    if not place.is_dir():
        raise InputError(f"'{place}' is no folder; give the folder of the masks")
    folder = place if split is None else _split_folder(place, dataset or "folder", split)
    files = find_images(folder)[0]
    if beside := [path for path in files if _IMAGES & {*path.relative_to(folder).parts[:-1]}]:
        raise InputError(
            f"'{folder}' holds images beside masks, e.g. {beside[0]}; give the folder of the "
            "masks, or name the split with --split"
        )
    masks = {relative_name(folder, path): path for path in files}
    if split is not None and (dataset or "").startswith("pascal_context"):
        masks = _listed(masks, folder, split)
    cityscapes = _one_kind(masks)
    masks = cityscapes or masks
    if not masks:
        raise InputError(f"'{folder}' holds no masks; give the folder of the masks")
    name = dataset or ("cityscapes" if cityscapes and classes is None else "folder")
    return Truth(masks, _table(place, name, classes), name)


def _split_folder(root: Path, dataset: str, split: str) -> Path:
    """Return the folder of the masks of a split; neither images nor other splits need to exist."""
    ade = ADE20K_SPLITS.get(split, split)
    if dataset.startswith("pascal_context"):
        places = [f"{inner}/SegmentationClassContext" for inner in (*VOC_FOLDERS, ".")]
    else:
        places = [place.format(split=split, ade=ade) for place in _PLACES[dataset]]
    for place in places:
        if (root / place).is_dir():
            return root / place
    raise InputError(
        f"no masks of split '{split}' in '{root}'; expected one of {first_few(places, 8)}"
    )


def _listed(masks: Mapping[str, Path], folder: Path, split: str) -> dict[str, Path]:
    """Return the masks that the list of a split of Pascal Context names."""
    listing = context_list(folder.parent, split)
    names = [name.replace("\\", "/") for name in read_names(listing)]
    if absent := [name for name in names if name not in masks]:
        raise InputError(f"{listing}: {len(absent)} masks are missing: {first_few(absent)}")
    return {name: masks[name] for name in names}


def _one_kind(masks: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of Cityscapes that hold labels, not instances or colours; {} for others."""
    for end in _CITYSCAPES_ENDS:
        if found := {name: path for name, path in masks.items() if name.endswith(end)}:
            return found
    return {}


def _table(place: Path, dataset: str, classes: Path | None) -> LabelTable:
    if dataset != "folder":
        if classes is not None:
            raise InputError(f"--classes is for masks of your own; '{dataset}' has its own classes")
        table = load_label_table(dataset)
        require_own_classes(place, dataset, table)
        return table
    if classes is not None:
        lines = read_text(classes, MAX_LIST_SIZE).rstrip().splitlines()
        return folder_table(classes.parent, [line.strip() for line in lines])
    for folder in (place, *place.parents[:2]):
        if (folder / "classes.txt").is_file():
            return folder_table(folder, None)
    raise InputError(
        f"what the values in '{place}' mean is not known; give --classes FILE with a class name "
        f"per line, or --dataset {'|'.join(sorted(name for name in DATASETS if name != 'folder'))}"
    )
