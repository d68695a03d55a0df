"""What cleanlab says about the same labels: pixels with an issue, scores of images and regions.

cleanlab calls a pixel an issue by confident learning (Northcutt, Jiang and Chuang, JAIR 2021), and
scores a set of pixels by a soft minimum over the probabilities of their labels. It knows no ignored
pixels, so it is shown the labelled ones only. Its two passes over a dataset are made image by
image, as its class for large datasets does; `segmentation.filter.find_label_issues` is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sceneparse.errors import InputError

# Number of an image, labels (n,) of its labelled pixels, and probabilities of all classes (n, K).
Pixels = tuple[int, NDArray[Any], NDArray[np.float32]]


@dataclass(frozen=True)
class Issues:
    """What cleanlab found in a dataset.

    `quality`: pixels whose label has at most this probability, and is not the most probable class,
    have an issue. `images` (N,): the score of each image, the worst lowest.
    """

    quality: float
    images: NDArray[np.float64]


def require_cleanlab() -> None:
    """Raise InputError if cleanlab is not installed."""
    if find_spec("cleanlab") is None:
        raise InputError("cleanlab is not installed; run: pip install cleanlab, or omit --cleanlab")


def find_issues(pixels: Callable[[], Iterable[Pixels]], num_classes: int) -> Issues:
    """Return what cleanlab finds; `pixels` gives those of each image, twice."""
    from cleanlab.experimental.label_issues_batched import LabelInspector

    inspector = LabelInspector(num_class=num_classes, store_results=False, verbose=False, n_jobs=1)
    for _, labels, probabilities in pixels():
        inspector.update_confident_thresholds(labels, probabilities)
    qualities, images = [], {}
    for number, labels, probabilities in pixels():
        qualities.append(inspector.score_label_quality(labels, probabilities))
        images[number] = soft_minimum(qualities[-1])
    ordered = np.sort(np.concatenate(qualities))
    count = int(inspector.get_num_issues(silent=True))
    quality = float(ordered[count - 1]) if count else -1.0
    return Issues(quality, np.array([images[number] for number in sorted(images)]))


def soft_minimum(qualities: NDArray[np.float32]) -> float:
    """Return cleanlab's score of pixels from the probabilities (n,) of their labels; low is bad."""
    from cleanlab.segmentation.rank import get_label_quality_scores

    # The score depends on no other probability, so all others may be one.
    both = np.stack([qualities, 1 - qualities])[None, :, None]  # (1, 2, 1, n)
    labels = np.zeros((1, 1, len(qualities)), int)
    return float(get_label_quality_scores(labels, both, verbose=False, n_jobs=1)[0][0])
