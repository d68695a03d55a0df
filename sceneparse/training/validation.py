"""Validate networks of both tasks: the score, and the values, table and picture to log."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.data.labels import LabelTable
from sceneparse.data.loader import Batch, batches
from sceneparse.errors import Preempted
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.protocols import Protocol
from sceneparse.metrics.confusion import ConfusionMatrix, mean_iou, scores_from_counts
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.report.pictures import Picture, example_grid
from sceneparse.report.run_pictures import worst_grid
from sceneparse.report.tables import (
    four_digits,
    plain,
    score_table,
    scores_as_dict,
    totals_of,
    totals_table,
)
from sceneparse.runtime.distributed import Process, any_process
from sceneparse.runtime.precision import Compute
from sceneparse.runtime.progress import Progress
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.examples import KeptExamples
from sceneparse.training.loop import MeanLoss, evaluate, evaluate_classifier

_EXAMPLES = 4


@dataclass(frozen=True)
class Validated:
    """The result of a validation.

    `score`: higher is better. `headline`: its name and value. `details`: other values, for the log
    line. `values`: for metrics.jsonl. `table`: printed at the end of the run. `picture`: of some
    examples. `draw_worst` draws the images with the worst predictions.
    """

    score: float
    headline: str
    details: str
    values: Mapping[str, Any]
    table: str = ""
    picture: Picture | None = None
    draw_worst: Callable[[], Picture] | None = None


def mean_iou_so_far(
    matrix: ConfusionMatrix, rule: str = "cityscapes", excluded: Sequence[int] = ()
) -> str:
    """Return the mean IoU of what this process has counted, for its progress."""
    found = scores_from_counts(matrix.counts.cpu().numpy(), rule, excluded).mean_iou
    return f"mean IoU {four_digits(found)}"


def until_stopped(
    batches: Iterable[Batch], stop: StopRequest, device: torch.device
) -> Iterator[Batch]:
    """Yield batches; after a signal to any process, raise Preempted on all."""
    for batch in batches:
        if stop.name is not None:
            break
        yield batch
    # Processes have unequal shares of the batches, so they can agree only after the last one.
    if any_process(device, stop.name is not None)[0]:
        raise Preempted("the validation was interrupted")


def validate_segmentation(  # noqa: PLR0913 - all it uses
    model: nn.Module,
    *,
    dataset: SegmentationDataset,
    loader: DataLoader[Any],
    protocol: Protocol,
    normalize: Normalization,
    compute: Compute,
    stop: StopRequest,
    class_weights: Tensor | None = None,
    process: Process,
) -> Validated:
    """Score a split at the images' own size, with a picture of some examples.

    The loss is the cross entropy of the protocol's probabilities, with `class_weights` (K,).
    Raises Preempted on all processes after a signal.
    """
    table, device = dataset.table, compute.counts_on
    kept = KeptExamples(dataset, spread(len(dataset), _EXAMPLES), worst=_EXAMPLES, best=0)
    numbers = range(process.rank, len(dataset), process.world_size)
    matrix = ConfusionMatrix(table.num_classes, table.ignore_index, numbers, len(dataset), device)
    remaining = iter(numbers)
    ones = torch.ones(table.num_classes, device=compute.device)
    loss = MeanLoss(ones if class_weights is None else class_weights)
    progress = Progress("validate", len(dataset), "images", quiet=not process.is_main)
    progress.note = partial(mean_iou_so_far, matrix)

    def after_batch(_: Batch, labels: Tensor) -> None:
        for found in labels:
            number = next(remaining)
            counts = matrix.by_image[number].cpu().numpy()
            kept.add(number, found, float(mean_iou(*counts)))
        progress.advance(len(labels) * process.world_size)

    with progress:
        evaluate(
            cast("SegmentationNetwork", model),
            until_stopped(batches(loader), stop, compute.device),
            [matrix],
            infer=protocol,
            normalize=normalize,
            compute=compute,
            after_batch=after_batch,
            loss=loss,
        )
    kept.gather()
    return _described(matrix, loss, kept, table, protocol)


def _described(
    matrix: ConfusionMatrix,
    loss: MeanLoss,
    kept: KeptExamples,
    table: LabelTable,
    protocol: Protocol,
) -> Validated:
    """Return the result of a validation from what all processes counted and kept."""
    scores = scores_from_counts(matrix.counts.cpu().numpy())
    score, accuracy = scores.mean_iou, scores.pixel_accuracy
    examples = [kept.example(number) for number in kept.some]
    worst = kept.by_score()["Worst images"]
    named = scores_as_dict(scores, table.names, protocol.description)
    return Validated(
        score=score,
        headline=f"val mean IoU {score:.4f}",
        details=f"pixel accuracy {accuracy:.4f}  loss {loss.value:.3f}",
        values={"loss": plain(loss.value), **named},
        table=score_table(scores, table.names) + "\n\n" + totals_table(totals_of(scores), {}),
        picture=example_grid(examples, table.names, table.colors),
        draw_worst=partial(_draw_worst, kept, worst, table) if worst else None,
    )


def _draw_worst(kept: KeptExamples, numbers: Sequence[int], table: LabelTable) -> Picture:
    return worst_grid([(kept.scores[k], kept.example(k)) for k in numbers], table)


def validate_classifier(
    model: nn.Module,
    *,
    parts: Mapping[str, Sequence[Batch]],
    normalize: Normalization,
    compute: Compute,
    stop: StopRequest,
) -> Validated:
    """Score "test" images and, if `parts` has them, "holdout" images kept out of training.

    The score is that of the held-out images: choosing an epoch by the test images would be a leak.
    Raises Preempted after a signal.
    """
    values: dict[str, float] = {}
    with Progress("validate", sum(map(len, parts.values())), "batches") as progress:
        for name, part in parts.items():
            values[f"{name}_loss"], values[f"{name}_accuracy"] = evaluate_classifier(
                model,
                progress.over(until_stopped(part, stop, compute.device)),
                normalize=normalize,
                compute=compute,
            )
    chosen = "holdout" if "holdout" in parts else "test"
    loss, accuracy = values[f"{chosen}_loss"], values[f"{chosen}_accuracy"]
    return Validated(
        accuracy, f"{chosen} accuracy {accuracy:.4f}", f"loss {loss:.4f}", values=values
    )
