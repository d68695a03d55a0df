"""Checks of a data set before the first step: files decode, labels are in the table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import LabelTable
from sceneparse.errors import InputError, first_few


def spread(size: int, limit: int) -> list[int]:
    """Choose at most `limit` indices, evenly spread over 0..size-1."""
    return sorted({int(index) for index in np.linspace(0, size - 1, min(size, limit)).round()})


def check_samples(dataset: SegmentationDataset, indices: Sequence[int]) -> None:
    """Decode these samples strictly, in parallel; raise InputError with the first problems."""

    def train_ids(index: int) -> set[int] | InputError:
        try:
            _, mask, _ = dataset[index]
        except InputError as error:
            return error
        return set(np.unique(mask).tolist())

    # Decoding releases the interpreter lock, so threads do.
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
    """Say why masks that hold no other train ids than `found` teach nothing, or None."""
    ignore = table.ignore_index
    if found <= {ignore}:
        return "every pixel of the masks is ignored; nothing to learn"
    if table.num_classes == 2 and found == {0, ignore}:
        return (
            f"the masks hold only 0 and {ignore}, and {ignore} means ignore; "
            "if it is the second class, store it as 1"
        )
    return None
