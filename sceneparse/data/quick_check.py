"""Check samples before the first training step: files decode, labels are in the table."""

from collections.abc import Sequence

import numpy as np

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import LabelTable
from sceneparse.data.reading import read_all
from sceneparse.errors import InputError

_MASKS_AT_ONCE = 64


def check_samples(dataset: SegmentationDataset, indices: Sequence[int]) -> None:
    """Decode these samples strictly, in parallel; raise InputError with the first problems."""
    found = set[int]().union(*read_all(lambda i: np.unique(dataset[i][1]).tolist(), indices))
    reason = why_useless(found, dataset.table)
    if reason is not None:
        raise InputError(f"{dataset.pairs[0].mask.parent}: {reason}")


def require_labels(dataset: SegmentationDataset, remedy: str) -> None:
    """Read masks until one has a pixel of a class; raise InputError if all pixels are ignored."""

    def has_labels(index: int) -> bool:
        return bool((dataset.mask(index) != dataset.table.ignore_index).any())

    # One mask is enough, except where labels are rare or withheld.
    size = len(dataset)
    for start, stop in (
        (0, 1),
        *((k, min(k + _MASKS_AT_ONCE, size)) for k in range(1, size, _MASKS_AT_ONCE)),
    ):
        if any(read_all(has_labels, range(start, stop))):
            return
    raise InputError(
        f"all pixels of all {size} masks ({dataset.pairs[0].mask.parent}, ...) are ignored, so "
        f"there is nothing to score; {remedy}"
    )


def why_useless(found: set[int], table: LabelTable) -> str | None:
    """Return why masks with only the train ids `found` cannot be trained on; None if they can."""
    ignore = table.ignore_index
    if found <= {ignore}:
        return "every pixel of the masks is ignored; nothing to learn"
    if table.num_classes == 2 and found == {0, ignore}:
        return (
            f"the masks hold only 0 and {ignore}, and {ignore} means ignore; "
            "if it is the second class, store it as 1"
        )
    return None
