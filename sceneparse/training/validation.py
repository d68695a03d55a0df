"""Validate networks of both tasks: the score, and the values, table and picture to log."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from sceneparse.data.datasets import SegmentationDataset, spread
from sceneparse.data.loader import Batch, batches
from sceneparse.errors import Preempted
from sceneparse.inference.normalization import Normalization
from sceneparse.inference.protocols import Protocol
from sceneparse.metrics.confusion import ConfusionMatrix, scores_from_counts
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.report.pictures import ExampleCollector, Picture, example_grid
from sceneparse.report.tables import score_table, scores_as_dict, totals_of, totals_table
from sceneparse.runtime.distributed import any_process
from sceneparse.runtime.precision import Compute
from sceneparse.runtime.signals import StopRequest
from sceneparse.training.loop import evaluate, evaluate_classifier

_EXAMPLES = 4


@dataclass(frozen=True)
class Validated:
    """The result of a validation.

    `score`: higher is better. `description`: for the log line. `values`: for metrics.jsonl.
    `table`: printed at the end of the run. `picture`: of some examples.
    """

    score: float
    description: str
    values: Mapping[str, Any]
    table: str = ""
    picture: Picture | None = None


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


def validate_segmentation(
    model: nn.Module,
    *,
    dataset: SegmentationDataset,
    loader: DataLoader[Any],
    protocol: Protocol,
    normalize: Normalization,
    compute: Compute,
    stop: StopRequest,
) -> Validated:
    """Score a split at the images' own size, with a picture of some examples.

    Raises Preempted on all processes after a signal.
    """
    table, pairs = dataset.table, dataset.pairs
    collector = ExampleCollector({pairs[index].name for index in spread(len(pairs), _EXAMPLES)})
    matrix = ConfusionMatrix(table.num_classes, table.ignore_index, device=compute.device)
    evaluate(
        cast("SegmentationNetwork", model),
        until_stopped(batches(loader), stop, compute.device),
        [matrix],
        infer=protocol,
        normalize=normalize,
        compute=compute,
        after_batch=collector.add,
    )
    scores = scores_from_counts(matrix.counts.cpu().numpy())
    mean_iou, accuracy = scores.mean_iou, scores.pixel_accuracy
    return Validated(
        score=mean_iou,
        description=f"val mean IoU {mean_iou:.4f}  pixel accuracy {accuracy:.4f}",
        values=scores_as_dict(scores, table.names, protocol.description),
        table=score_table(scores, table.names) + "\n\n" + totals_table(totals_of(scores), {}),
        picture=example_grid(collector.examples, table.names, table.colors),
    )


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
    for name, part in parts.items():
        values[f"{name}_loss"], values[f"{name}_accuracy"] = evaluate_classifier(
            model, until_stopped(part, stop, compute.device), normalize=normalize, compute=compute
        )
    chosen = "holdout" if "holdout" in parts else "test"
    loss, accuracy = values[f"{chosen}_loss"], values[f"{chosen}_accuracy"]
    return Validated(accuracy, f"{chosen} accuracy {accuracy:.4f}  loss {loss:.4f}", values)
