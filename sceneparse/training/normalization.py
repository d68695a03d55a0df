"""Choose the mean and standard deviation that a run normalises images with."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from sceneparse.errors import InputError, refusing
from sceneparse.inference.normalization import Normalization
from sceneparse.models.classification import Classifier
from sceneparse.models.description import Channels
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.statistics import Statistics, pretrained_statistics
from sceneparse.runs.checkpoint import Saved

logger = logging.getLogger(__name__)


def choose_normalization(
    mean: Channels | None,
    std: Channels | None,
    model: SegmentationModel | Classifier,
    *,
    pretrained: str | Path | None,
    saved: Saved | None,
    otherwise: Statistics,
) -> Normalization:
    """Choose what images are normalised with, and log it with its origin.

    A resumed run (`saved`) keeps its values. A new one takes `mean` and `std` if they are given,
    else those of the weights that `pretrained` names for the new `model`, else `otherwise`. Logs a
    warning if given values differ from those of the weights. Raises InputError if one of both is
    given alone.
    """
    if saved is None:
        chosen = _choose(mean, std, model, pretrained, otherwise)
    else:
        chosen = _saved_statistics(saved)
    logger.info(f"images are normalised with {_written(chosen)}")
    return Normalization(chosen.mean, chosen.std)


def _saved_statistics(saved: Saved) -> Statistics:
    with refusing(saved.folder, "does not say what images are normalised with"):
        return Statistics.of(saved.meta["mean"], saved.meta["std"], "as the run began")


def _choose(
    mean: Channels | None,
    std: Channels | None,
    model: SegmentationModel | Classifier,
    pretrained: str | Path | None,
    otherwise: Statistics,
) -> Statistics:
    """Choose the values of a new run, see `choose_normalization`."""
    own = None
    if pretrained is not None:
        own = pretrained_statistics(model.meta["model"], pretrained)
    if mean is None and std is None:
        return own or otherwise
    if mean is None or std is None:
        given, missing = ("data.std", "data.mean") if mean is None else ("data.mean", "data.std")
        raise InputError(
            f"{given} is given without {missing}; give both, or neither: "
            f"then they are {(own or otherwise).origin}"
        )
    chosen = Statistics(mean, std, "data.mean, data.std")
    if own is not None and not np.allclose(own[:2], chosen[:2], atol=1e-3):
        logger.warning(
            f"the pretrained weights were trained with {_written(own)}; this run uses "
            f"{_written(chosen)}; remove data.mean and data.std to use the former"
        )
    return chosen


def _written(statistics: Statistics) -> str:
    mean, std, origin = statistics
    return f"mean {list(mean)}, std {list(std)} ({origin})"
