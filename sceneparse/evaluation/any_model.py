"""Evaluate any network on a dataset, with one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sceneparse.data.datasets import SegmentationDataset
from sceneparse.errors import InputError, first_few
from sceneparse.evaluation.dataset import evaluate_dataset
from sceneparse.evaluation.result import Evaluation, excluded_classes, write_evaluation
from sceneparse.inference.any_network import IMAGENET_MEAN, IMAGENET_STD, AnyNetwork, Size
from sceneparse.inference.predictor import Predictor
from sceneparse.metrics.confusion import ABSENT_CLASS_RULES
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.runtime.distributed import Process


def evaluate(  # noqa: PLR0913 - what a user may choose, all by keyword
    predict: Callable[[Tensor], Any] | SegmentationNetwork,
    dataset: SegmentationDataset,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    multiple: int = 1,
    size: Size | None = None,
    device: str | None = None,
    protocol: str | None = None,
    rule: str = "cityscapes",
    resamples: int | None = None,
    boundary: bool = False,
    exclude: Sequence[str] = (),
    workers: int = 2,
    output: str | Path | None = None,
    **settings: Any,  # noqa: ANN401 - create_protocol's
) -> Evaluation:
    """Score a network or function of any library on a dataset of `create_dataset`.

    `predict`, `mean`, `std`, `multiple`, `size`: see AnyNetwork; networks of this package have
    their own normalisation. `protocol`, `settings`: name and settings for create_protocol, e.g.
    protocol="slide", crop=(512, 512). `rule`: how absent classes count, a name of
    ABSENT_CLASS_RULES. `resamples`: draws of a bootstrap for the intervals; None: jackknife; 0: no
    intervals. `boundary`: also compute boundary scores. `exclude`: classes to leave out of the
    means. `output`: folder for the files that `sceneparse evaluate` writes. `workers`: processes
    that read images. On Windows and macOS, call this in a script below
    `if __name__ == "__main__":`, or with workers=0. Raises InputError.

    >>> data = sceneparse.create_dataset("folder", "data/mine", "val")
    >>> result = sceneparse.evaluate(model, data, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> result.scores.mean_iou, result.interval
    """
    if rule not in ABSENT_CLASS_RULES:
        raise InputError(f"rule must be one of {', '.join(ABSENT_CLASS_RULES)}, got '{rule}'")
    names, colors = dataset.table.names, dataset.table.colors
    excluded = excluded_classes(exclude, names)
    build = partial(AnyNetwork, colors=colors, mean=mean, std=std, multiple=multiple, size=size)
    network = predict if isinstance(predict, SegmentationNetwork) else build(predict, names)
    if network.classes != names:
        raise InputError(f"the network has other classes than the data: {first_few(names)}")
    predictor = Predictor(network, device=device, protocol=protocol, **settings)
    evaluation = evaluate_dataset(
        predictor,
        dataset,
        Process(0, 1, predictor.compute.device),
        rule=rule,
        resamples=resamples,
        with_boundary=boundary,
        workers=workers,
        facts={"data": f"{len(dataset)} images"},
        excluded=excluded,
    )
    if output is not None:
        folder = Path(output).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        write_evaluation(folder, evaluation)
    return evaluation
