"""Check samples before the first training step: files decode, labels are in the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import LabelTable
from sceneparse.errors import InputError, first_few


def check_samples(dataset: SegmentationDataset, indices: Sequence[int]) -> None:
    """Decode these samples strictly, in parallel; raise InputError with the first problems."""

    def train_ids(index: int) -> set[int] | InputError:
        try:
            _, mask, _ = dataset[index]
        except InputError as error:
            return error
        return set(np.unique(mask).tolist())

    # Threads are enough, because decoding releases the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(train_ids, indices))
    problems = [result for result in results if isinstance(result, InputError)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError(
            f"{len(problems)} of {len(indices)} samples cannot be used: {first_few(problems)}"
        )
    found = set[int]().union(*(result for result in results if isinstance(result, set)))
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
