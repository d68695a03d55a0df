"""Check the data before the first step: samples that cannot be used, classes that nothing shows."""

import logging
from collections.abc import Sequence

from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.data.quick_check import absent_classes, check_samples, describe_absent
from sceneparse.errors import first_few

logger = logging.getLogger(__name__)

# Of larger splits, some evenly spread samples are checked.
_MAX_ALL, _SOME = 2000, 500


def check_data(splits: Sequence[tuple[str, SegmentationDataset]], layout: str, check: str) -> None:
    """Check the training and the validation split, given by their names.

    `check`: "all" samples, "none", or "auto" (500 of many). Logs classes without a pixel. Raises
    InputError for samples that cannot be used, and for masks that are not of the dataset `layout`.
    """
    if check == "none":
        return
    shown = []
    for _, dataset in splits:
        limit = _limit(dataset, check)
        shown.append(check_samples(dataset, spread(len(dataset), limit), layout))
        if limit < len(dataset):
            logger.info(f"checked {limit} of {len(dataset)} samples; `sceneparse check` checks all")
    (train_name, train_set), (val_name, _) = splits
    table, limit = train_set.table, _limit(train_set, check)
    absent = absent_classes(shown[0], table)
    if limit < len(train_set):
        where = f"the {limit} of {len(train_set)} training samples that were checked"
    else:
        where = f"the training split '{train_name}'"
    if absent and layout == "folder":
        logger.warning(describe_absent(absent, table, where))
    elif absent:
        logger.info(f"no pixel of {len(absent)} classes in {where}: {first_few(absent)}")
    only_later = [name for k, name in enumerate(table.names) if k in shown[1] - shown[0]]
    if only_later:
        logger.warning(
            f"the validation split '{val_name}' shows {first_few(only_later)}, {where} does not; "
            "move images that show them to the training split"
        )


def _limit(dataset: SegmentationDataset, check: str) -> int:
    return len(dataset) if check == "all" or len(dataset) <= _MAX_ALL else _SOME
