"""A whole evaluation: a data set's images through a predictor, counted exactly, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.loader import Batch, batches, evaluation_loader, explained_worker_failures
from sceneparse.metrics.bootstrap import bootstrap_mean_iou
from sceneparse.metrics.boundary import BoundaryCounts
from sceneparse.metrics.calibration import CalibrationCounts
from sceneparse.metrics.confusion import ConfusionMatrix
from sceneparse.prediction.predictor import Predictor
from sceneparse.report.evaluation import Evaluation
from sceneparse.report.pictures import Example, Picture
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
    after_image: AfterImage,
) -> Evaluation:
    """Evaluate this process's share of a data set and add up over all processes.

    `rule` is one of ABSENT_CLASS_RULES, `resamples` 0 leaves intervals out, `facts` are printed
    beside the scores. The result is the same, to the last count, on any number of processes.
    """
    table, device = dataset.table, predictor.compute.device
    numbers = range(process.rank, len(dataset), process.world_size)
    matrix = ConfusionMatrix(table.num_classes, table.ignore_index, numbers, len(dataset), device)
    boundary = BoundaryCounts(table.num_classes, table.ignore_index, device)
    calibration = CalibrationCounts(table.ignore_index, device)
    meters: list[Meter] = [matrix]
    meters += [boundary] if with_boundary else []
    meters += [calibration] if with_calibration else []
    progress = Progress(len(dataset), "images", quiet=not process.is_main)

    def after_batch(batch: Batch, labels: Tensor) -> None:
        for image, name, found in zip(batch.images, batch.names, labels, strict=True):
            after_image(image.permute(1, 2, 0).numpy(), name, found.cpu().numpy())
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
            after_batch=after_batch,
        )
    progress.close()
    by_image = matrix.by_image.cpu().numpy()
    intervals = bootstrap_mean_iou(by_image, resamples, rule) if resamples else (None, None)
    return Evaluation(
        protocol=predictor.protocol.words,
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


def predicted_example(predictor: Predictor, dataset: SegmentationDataset, index: int) -> Example:
    """Predict one image of a data set, to be looked at beside its truth."""
    image, truth, name = dataset[index]
    return Example(name, image, truth, predictor.score(image[None]).labels()[0].cpu().numpy())
