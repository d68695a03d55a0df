"""Check samples and their labels: files decode, masks are of the table, classes occur."""

import logging
from collections.abc import Callable, Sequence, Set

import numpy as np

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import LabelTable
from sceneparse.data.labels.palette import is_background
from sceneparse.data.reading import read_all
from sceneparse.errors import InputError, first_few

logger = logging.getLogger(__name__)

# Fewer masks of a public dataset often show only the first classes of its table.
_MIN_MASKS = 4


def check_samples(
    dataset: SegmentationDataset,
    indices: Sequence[int],
    layout: str = "folder",
    after_sample: Callable[[], None] = lambda: None,
) -> set[int]:
    """Decode these samples strictly, in parallel; return the train ids that their masks hold.

    `layout` is the name of the dataset. `after_sample` is called for each, in any thread. Raises
    InputError with the first problems.
    """
    masks = read_all(lambda i: np.unique(dataset[i][1]).tolist(), indices, after=after_sample)
    found = set[int]().union(*masks)
    if reason := why_unusable(found, dataset.table, layout, len(indices)):
        raise InputError(f"{dataset.pairs[0].mask.parent}: {reason}")
    return found


def require_labels(dataset: SegmentationDataset, remedy: str) -> None:
    """Read masks until one shows a class above 0; raise InputError if all pixels are ignored.

    Logs a warning if there are only class 0 and ignored pixels, since masks of 0/255 read so.
    """
    table, found = dataset.table, set[int]()
    for index in range(len(dataset)):
        found.update(np.unique(dataset.mask(index)).tolist())
        if found - {0, table.ignore_index}:
            return
    folder = dataset.pairs[0].mask.parent
    if found == {table.ignore_index}:
        raise InputError(
            f"all pixels of all {len(dataset)} masks ({folder}, ...) are "
            f"ignored, so there is nothing to score; {remedy}"
        )
    if reason := why_unusable(found, table, "folder", len(dataset)):
        logger.warning(f"{folder}: {reason}")


def why_unusable(found: Set[int], table: LabelTable, layout: str, count: int) -> str | None:
    """Return why `count` masks of the train ids `found` cannot be trained on; None if they can.

    Masks that seem not to be of the public dataset `layout` cannot: those of someone's own classes
    hold 0, 1, 2, ..., of a public table only the first few ids.
    """
    ignore = table.ignore_index
    if found <= {ignore}:
        return "every pixel of the masks is ignored; nothing to learn"
    if found == {0, ignore}:
        return (
            f"the masks hold only 0 and {ignore}, and {ignore} means ignore; "
            "if it is the second class, store it as 1: sceneparse convert DATA NEW_FOLDER"
        )
    classes = sorted(found - {ignore})
    few = len(classes) <= table.num_classes / 2 and classes == list(range(len(classes)))
    if layout == "folder" or count < _MIN_MASKS or not few:
        return None
    return (
        f"{count} masks hold only the first {len(classes)} of the {table.num_classes} classes of "
        f"'{layout}' ({first_few(table.names[: len(classes)], 3)}); if these are classes of your "
        "own, name them in classes.txt and set data.dataset=folder (check: --dataset folder)"
    )


def absent_classes(found: Set[int], table: LabelTable) -> list[str]:
    """Return the names of classes that are not among the train ids `found`, but for background."""
    names = enumerate(table.names)
    return [name for k, name in names if k not in found and not is_background(name)]


def describe_absent(absent: Sequence[str], table: LabelTable, where: str) -> str:
    """Return a line about classes without a pixel, with the remedies that there are."""
    # Line k of classes.txt names value k, so that only the last lines can go.
    last = table.names[-len(absent) :] == list(absent)
    remove = "remove their lines from classes.txt" if last else "number the masks without them"
    return (
        f"no pixel of {len(absent)} of {table.num_classes} classes in {where}: "
        f"{first_few(absent)}. What no training mask shows is not learned: move images of it to "
        f"that split; if there is none, {remove}; if the masks are of another format (0/255, "
        "colours), convert them (sceneparse convert)"
    )
