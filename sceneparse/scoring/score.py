"""Count the predictions of label files against masks, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sceneparse.data.labels import Label, Labels, LabelTable
from sceneparse.errors import InputError, first_few
from sceneparse.evaluation.dataset import interval_facts, intervals_of
from sceneparse.evaluation.result import Evaluation
from sceneparse.metrics.boundary import BoundaryCounts
from sceneparse.metrics.confusion import TRUTH, ConfusionMatrix
from sceneparse.metrics.regions import RegionCounts
from sceneparse.scoring.encoding import Encoding
from sceneparse.scoring.matching import Match
from sceneparse.training.loop import Meter

PROTOCOL = "label files, as they are"
# The class of pixels for which a file has none.
NO_PREDICTION = "no prediction"
_AHEAD = 8

AfterImage = Callable[[int, Labels, NDArray[np.int64]], None]


@dataclass(frozen=True)
class Readers:
    """How to read the predictions, and the masks."""

    prediction: Encoding
    truth: Encoding

    def read(self, match: Match) -> tuple[Labels, Labels] | InputError:
        """Return prediction and truth (H, W), or what is wrong with them."""
        try:
            prediction, truth = self.prediction.read(match.prediction), self.truth.read(match.truth)
        except InputError as error:
            return error
        if prediction.shape != truth.shape:
            sizes = [f"{size[1]}x{size[0]}" for size in (prediction.shape, truth.shape)]
            return InputError(
                f"{match.prediction} is {sizes[0]}, its mask {match.truth} {sizes[1]}"
            )
        return prediction, truth


@dataclass(frozen=True)
class How:
    """How to score: a name of ABSENT_CLASS_RULES, `resamples` as in evaluate_dataset, and so on.

    `facts` and `settings`: see Evaluation.
    """

    rule: str = "cityscapes"
    resamples: int | None = None
    with_boundary: bool = False
    with_regions: bool = False
    excluded: Sequence[int] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def score_files(
    matches: Sequence[Match], readers: Readers, how: How, after_image: AfterImage
) -> Evaluation:
    """Score label files; pixels without a predicted class are wrong, and counted.

    `after_image` is called with the number of each image, its prediction (H, W), and its counts
    (3, K). Raises InputError, which names all files that cannot be read or have another size.
    """
    size, ignored = readers.truth.table.num_classes, readers.truth.table.ignore_index
    matrix = ConfusionMatrix(size + 1, ignored, range(len(matches)), len(matches))
    boundary = BoundaryCounts(size + 1, ignored) if how.with_boundary else None
    regions = RegionCounts(size + 1, ignored) if how.with_regions else None
    meters: list[Meter] = [m for m in (matrix, boundary, regions) if m is not None]
    problems = []
    for number, found in enumerate(_in_order(matches, readers)):
        if isinstance(found, InputError):
            problems.append(found)
            continue
        prediction, truth = found
        labels = np.where(prediction == ignored, size, prediction)
        batch = [torch.from_numpy(x.astype(np.int32))[None] for x in (labels, truth)]
        for meter in meters:
            meter.update(*batch)
        after_image(number, prediction, matrix.by_image[number, :, :size].numpy())
    if problems:
        raise InputError(
            f"{len(problems)} of {len(matches)} pairs cannot be scored: {first_few(problems)}"
        )
    if not matrix.by_image[:, TRUTH].any():
        raise InputError("every pixel of the masks is ignored, so there is nothing to score")
    names = [match.name for match in matches]
    return _evaluation(names, readers.truth.table, matrix, boundary, regions, how)


def _evaluation(
    names: list[str],
    table: LabelTable,
    matrix: ConfusionMatrix,
    boundary: BoundaryCounts | None,
    regions: RegionCounts | None,
    how: How,
) -> Evaluation:
    """Return the scores; the last class, pixels without a prediction, stays only if it occurs."""
    size, counts, by_image = table.num_classes, matrix.counts.numpy(), matrix.by_image.numpy()
    gaps, excluded = {}, list(how.excluded)
    if missing := int(counts[:, size].sum()):
        gaps = {NO_PREDICTION: f"{missing / counts.sum():.2%} of the counted pixels, all wrong"}
        table, excluded = _with_gaps(table), [*excluded, size]
    else:
        counts, by_image = counts[:size, :size], by_image[..., :size]
        if boundary is not None:
            boundary.counts = boundary.counts[:, :size]
        if regions is not None:
            regions.keep(size)
    mean, classes = intervals_of(by_image, how.resamples, how.rule, excluded)
    return Evaluation(
        protocol=PROTOCOL,
        rule=how.rule,
        table=table,
        image_names=names,
        counts=counts,
        by_image=by_image,
        interval=mean,
        class_intervals=classes,
        boundary=boundary,
        regions=regions,
        facts={**how.facts, **gaps, **interval_facts(how.resamples)},
        excluded=excluded,
        settings=how.settings,
    )


def _in_order(
    matches: Sequence[Match], readers: Readers
) -> Iterator[tuple[Labels, Labels] | InputError]:
    """Read the pairs in threads, a few ahead, and yield them in order."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting = iter(matches)
        ahead = [pool.submit(readers.read, match) for match in islice(waiting, _AHEAD)]
        while ahead:
            yield ahead.pop(0).result()
            ahead += [pool.submit(readers.read, match) for match in islice(waiting, 1)]


def _with_gaps(table: LabelTable) -> LabelTable:
    """Return the table with a last class for pixels without a prediction."""
    raw_id = next(k for k in range(65536) if k not in {label.raw_id for label in table.labels})
    category = NO_PREDICTION if table.categories is not None else None
    label = Label(raw_id, table.num_classes, NO_PREDICTION, (0, 0, 0), category)
    return replace(table, labels=(*table.labels, label))
