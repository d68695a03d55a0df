"""A whole evaluation: a dataset's images through a predictor, counted exactly, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.loader import Batch, batches, evaluation_loader, explained_worker_failures
from sceneparse.evaluation.examples import KeptExamples
from sceneparse.evaluation.result import Evaluation, image_mean_iou
from sceneparse.inference.predictor import Predictor
from sceneparse.metrics.boundary import BoundaryCounts
from sceneparse.metrics.calibration import CalibrationCounts
from sceneparse.metrics.confusion import ConfusionMatrix
from sceneparse.metrics.intervals import bootstrap_mean_iou
from sceneparse.report.pictures import Picture
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.progress import Progress
from sceneparse.training.loop import Meter, evaluate

# Called with each image (H, W, 3), its name and its predicted labels (H, W).
AfterImage = Callable[[Picture, str, Any], None]


def evaluate_dataset(  # noqa: PLR0913 - what may be asked for
    predictor: Predictor,
    dataset: SegmentationDataset,
    process: Process,
    *,
    rule: str = "cityscapes",
    resamples: int = 1000,
    with_boundary: bool = False,
    with_calibration: bool = False,
    workers: int = 2,
    facts: Mapping[str, str],
    after_image: AfterImage | None = None,
    kept: KeptExamples | None = None,
) -> Evaluation:
    """Evaluate this process's share of a dataset and add up over all processes.

    `rule` is one of ABSENT_CLASS_RULES, `resamples` 0 leaves intervals out, `facts` are printed
    beside the scores, `kept` gets what pictures may need. The result is the same, to the last
    count, on any number of processes.
    """
    table, device = dataset.table, predictor.compute.device
    numbers = range(process.rank, len(dataset), process.world_size)
    matrix = ConfusionMatrix(table.num_classes, table.ignore_index, numbers, len(dataset), device)
    boundary = BoundaryCounts(table.num_classes, table.ignore_index, device)
    calibration = CalibrationCounts(table.ignore_index, device)
    meters: list[Meter] = [matrix]
    meters += [boundary] if with_boundary else []
    meters += [calibration] if with_calibration else []
    shown = iter(numbers)

    def after_batch(batch: Batch, labels: Tensor) -> None:
        predicted = labels.cpu().numpy()
        for image, name, found in zip(batch.images, batch.names, predicted, strict=True):
            number = next(shown)
            if after_image is not None:
                after_image(image.permute(1, 2, 0).numpy(), name, found)
            if kept is not None:
                counts = matrix.by_image[number].cpu().numpy()
                kept.add(number, found, float(image_mean_iou(counts)))

    _count(predictor, dataset, process, meters, workers, after_batch)
    if kept is not None:
        kept.gather()
    by_image = matrix.by_image.cpu().numpy()
    intervals = bootstrap_mean_iou(by_image, resamples, rule) if resamples else (None, None)
    return Evaluation(
        protocol=predictor.protocol.description,
        rule=rule,
        table=table,
        image_names=[pair.name for pair in dataset.pairs],
        counts=matrix.counts.cpu().numpy(),
        by_image=by_image,
        interval=intervals[0],
        class_intervals=intervals[1],
        boundary=boundary if with_boundary else None,
        calibration=calibration.curve() if with_calibration else None,
        facts=facts,
    )


def _count(
    predictor: Predictor,
    dataset: SegmentationDataset,
    process: Process,
    meters: Sequence[Meter],
    workers: int,
    after_batch: Callable[[Batch, Tensor], None],
) -> None:
    """Let the meters count this process's share of a dataset, beside a progress bar."""
    progress = Progress(len(dataset), "images", quiet=not process.is_main)

    def advance(batch: Batch, labels: Tensor) -> None:
        after_batch(batch, labels)
        progress.advance(len(batch.names) * process.world_size)

    loader = evaluation_loader(
        dataset, rank=process.rank, world_size=process.world_size, workers=workers, timeout=300
    )
    with explained_worker_failures():
        evaluate(
            predictor.model,
            batches(loader),
            meters,
            infer=predictor.protocol,
            normalize=predictor.normalize,
            compute=predictor.compute,
            after_batch=advance,
        )
    progress.close()
