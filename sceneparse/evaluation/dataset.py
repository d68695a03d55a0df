"""Evaluate a predictor on a dataset, with exact counts and intervals."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.loader import Batch, batches, evaluation_loader, explained_worker_failures
from sceneparse.evaluation.result import Evaluation, image_mean_iou
from sceneparse.inference.predictor import Predictor
from sceneparse.metrics.boundary import BoundaryCounts
from sceneparse.metrics.calibration import CalibrationCounts
from sceneparse.metrics.confusion import ConfusionMatrix, Counts
from sceneparse.metrics.intervals import Interval, bootstrap_mean_iou, mean_iou_intervals
from sceneparse.metrics.regions import RegionCounts
from sceneparse.metrics.risk import RiskCounts
from sceneparse.report.pictures import Picture
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.progress import Progress
from sceneparse.training.examples import KeptExamples
from sceneparse.training.loop import Loss, Meter, evaluate
from sceneparse.training.validation import mean_iou_so_far


def evaluate_dataset(  # noqa: PLR0913 - keyword-only options
    predictor: Predictor,
    dataset: SegmentationDataset,
    process: Process,
    *,
    rule: str = "cityscapes",
    resamples: int | None = None,
    with_boundary: bool = False,
    for_report: bool = False,
    workers: int = 2,
    facts: Mapping[str, str],
    excluded: Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    after_image: Callable[[Picture, str, Any], None] | None = None,
    kept: KeptExamples | None = None,
) -> Evaluation:
    """Evaluate this process's share of a dataset and sum the counts of all processes.

    `rule`: one of ABSENT_CLASS_RULES. `resamples`: of bootstrap intervals; None: intervals by the
    jackknife; 0: none. `for_report`: calibration, risk, regions too. `facts`, `excluded`,
    `settings`: see Evaluation. `after_image` gets images (H, W, 3), names, found labels (H, W).
    """
    table, numbers = dataset.table, range(process.rank, len(dataset), process.world_size)
    size, ignored, device = table.num_classes, table.ignore_index, predictor.compute.counts_on
    matrix = ConfusionMatrix(size, ignored, numbers, len(dataset), device)
    boundary, regions = BoundaryCounts(size, ignored, device), RegionCounts(size, ignored, device)
    calibration, risk = CalibrationCounts(ignored, device), RiskCounts(ignored, device)
    meters: list[Meter] = [matrix, *([boundary] if with_boundary else [])]
    meters += [calibration, risk, regions] if for_report else []

    def after(number: int, image: Picture, name: str, labels: NDArray[Any]) -> None:
        if after_image is not None:
            after_image(image, name, labels)
        if kept is not None:
            score = image_mean_iou(matrix.by_image[number].cpu().numpy(), excluded)
            kept.add(number, labels, float(score))

    so_far = partial(mean_iou_so_far, matrix, rule, excluded)
    count(predictor, dataset, process, meters, workers, after, note=so_far)
    if kept is not None:
        kept.gather()
    by_image = matrix.by_image.cpu().numpy()
    mean, classes = intervals_of(by_image, resamples, rule, excluded)
    return Evaluation(
        protocol=predictor.protocol.description,
        rule=rule,
        table=table,
        image_names=[pair.name for pair in dataset.pairs],
        counts=matrix.counts.cpu().numpy(),
        by_image=by_image,
        interval=mean,
        class_intervals=classes,
        boundary=boundary if with_boundary else None,
        calibration=calibration.curve() if for_report else None,
        risk=risk.curve() if for_report else None,
        regions=regions if for_report else None,
        facts={**facts, **interval_facts(resamples)},
        excluded=excluded,
        settings=settings or {},
    )


def interval_facts(resamples: int | None) -> dict[str, str]:
    """Return how intervals are computed, by heading."""
    if resamples is None:
        return {"intervals": "95%, jackknife over images with Student's t"}
    draws = f"95%, percentile bootstrap over images, {resamples} draws"
    return {"intervals": draws} if resamples else {}


def intervals_of(
    by_image: Counts, resamples: int | None, rule: str, excluded: Sequence[int]
) -> tuple[Interval | None, list[Interval] | None]:
    """Return the intervals of the mean IoU without excluded classes, and of the IoU per class.

    `resamples`: see evaluate_dataset.
    """
    if resamples == 0:
        return None, None

    def both(counts: Counts) -> tuple[Interval, list[Interval]]:
        if resamples is None:
            return mean_iou_intervals(counts, rule)
        return bootstrap_mean_iou(counts, resamples, rule)

    mean, classes = both(by_image)
    if excluded:  # the mean of the others needs nothing but their counts
        mean, _ = both(np.delete(by_image, list(excluded), axis=2))
    return mean, classes


def count(  # noqa: PLR0913 - all it uses
    predictor: Predictor,
    dataset: SegmentationDataset,
    process: Process,
    meters: Sequence[Meter],
    workers: int,
    after_image: Callable[[int, Picture, str, NDArray[Any]], None],
    *,
    loss: Loss | None = None,
    phase: str = "evaluate",
    note: Callable[[], str] = str,
) -> None:
    """Predict and count this process's images; call `after_image` with the number of each.

    `loss`: also measured, unless a meter needs confidence. `phase`, `note`: of the progress.
    """
    loader = evaluation_loader(
        dataset, rank=process.rank, world_size=process.world_size, workers=workers, timeout=300
    )
    remaining = iter(range(process.rank, len(dataset), process.world_size))
    progress = Progress(phase, len(dataset), "images", quiet=not process.is_main, note=note)

    def after_batch(batch: Batch, labels: Tensor) -> None:
        for image, name, found in zip(batch.images, batch.names, labels.cpu().numpy(), strict=True):
            after_image(next(remaining), image.permute(1, 2, 0).numpy(), name, found)
        progress.advance(len(batch.names) * process.world_size)

    with explained_worker_failures(), progress:
        evaluate(
            predictor.model,
            batches(loader),
            meters,
            infer=predictor.protocol,
            normalize=predictor.normalize,
            compute=predictor.compute,
            after_batch=after_batch,
            loss=loss,
        )
