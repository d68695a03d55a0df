"""Check samples before the first training step: files decode, labels are in the table."""

from collections.abc import Sequence

import numpy as np

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import LabelTable
from sceneparse.data.reading import read_all
from sceneparse.errors import InputError


def check_samples(dataset: SegmentationDataset, indices: Sequence[int]) -> None:
    """Decode these samples strictly, in parallel; raise InputError with the first problems."""
    found = set[int]().union(*read_all(lambda i: np.unique(dataset[i][1]).tolist(), indices))
    reason = why_useless(found, dataset.table)
    if reason is not None:
        raise InputError(f"{dataset.pairs[0].mask.parent}: {reason}")


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
