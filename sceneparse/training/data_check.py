"""Check the data before the first step: unusable samples, absent classes, crops of a wrong size."""

import logging
import math
from collections.abc import Sequence

from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.data.sample_checks import absent_classes, check_samples, describe_absent
from sceneparse.errors import first_few
from sceneparse.runtime.progress import Progress

logger = logging.getLogger(__name__)

# Splits of up to _MAX_WHOLE samples are checked whole, of larger ones _SAMPLED, evenly spread.
_MAX_WHOLE, _SAMPLED = 2000, 500
# Number of image headers that are read.
_SIZES = 51
# Smallest share of an image that crops should show, and of a crop that an image should fill.
_MIN_SHOWN, _MIN_FILLED = 0.1, 0.4


def check_data(splits: Sequence[tuple[str, SegmentationDataset]], layout: str, check: str) -> None:
    """Check the training and the validation split, given by their names.

    `check`: "all" samples, "none", or "auto" (500 of many). Logs classes without a pixel. Raises
    InputError for samples that cannot be used, and for masks that are not of the dataset `layout`.
    """
    if check == "none":
        return
    shown = [_check(name, dataset, layout, check) for name, dataset in splits]
    (train_name, train_set), (val_name, _) = splits
    table, limit = train_set.table, _limit(train_set, check)
    absent = absent_classes(shown[0], table)
    where = f"the training split '{train_name}'"
    if limit < len(train_set):
        where = f"the {limit} of {len(train_set)} training samples that were checked"
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


def _check(name: str, dataset: SegmentationDataset, layout: str, check: str) -> set[int]:
    """Check the samples of a split; return the train ids that their masks hold."""
    limit = _limit(dataset, check)
    with Progress(f"check {name}", limit, "samples") as progress:
        found = check_samples(dataset, spread(len(dataset), limit), layout, progress.advance)
    if limit < len(dataset):
        logger.info(f"checked {limit} of {len(dataset)} samples; `sceneparse check` checks all")
    return found


def check_crop(
    dataset: SegmentationDataset, crop: tuple[int, int], scale: tuple[float, float]
) -> None:
    """Log a warning if crops show little of the training images, or are mostly padding.

    `crop`: height and width. `scale`: range of the random scale, of which the middle counts.
    """
    sizes = dataset.sizes(spread(len(dataset), _SIZES))
    # The middle one by area, at the middle scale.
    height, width = sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2]
    middle = sum(scale) / 2
    rows, columns = height * middle, width * middle
    common = min(crop[0], rows) * min(crop[1], columns)
    shown, filled = common / (rows * columns), common / (crop[0] * crop[1])
    crops, images = f"crops of {crop[1]}x{crop[0]}", f"{width}x{height} images"
    if shown < _MIN_SHOWN:
        long = math.ceil(2 * max(crop) / middle / 32) * 32
        logger.warning(
            f"{crops} show {100 * shown:.2g}% of your {images}; "
            f"set data.resize.long={long} (the network then sees them {long} pixels long, in "
            "validation and prediction too), or a larger augment.crop"
        )
    elif filled < _MIN_FILLED:
        fitting = min(crop[0], _aligned(rows)), min(crop[1], _aligned(columns))
        logger.warning(
            f"{crops} are {100 * (1 - filled):.0f}% padding on your {images}; "
            f"set augment.crop=[{fitting[0]},{fitting[1]}], or data.resize.long={max(crop)} to "
            "enlarge the images"
        )


def _aligned(length: float) -> int:
    """Return the next size of a multiple of 16 plus one, where features lie on pixels."""
    return math.ceil((length - 1) / 16) * 16 + 1


def _limit(dataset: SegmentationDataset, check: str) -> int:
    return len(dataset) if check == "all" or len(dataset) <= _MAX_WHOLE else _SAMPLED
