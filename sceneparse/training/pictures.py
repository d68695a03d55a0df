"""The pictures that a run writes beside its checkpoints.

A picture that cannot be drawn is logged, and never ends a run.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sceneparse.data.balance import count_masks
from sceneparse.data.datasets import spread
from sceneparse.data.loader import TensorSamples
from sceneparse.data.sampling import EpochSampler
from sceneparse.report.pictures import save_png
from sceneparse.report.run_pictures import augmented_grid
from sceneparse.runs.log import read_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_CROPS = 12
# Masks whose labels are counted: more take longer than a picture is worth.
_MAX_MASKS = 500
# Curves are drawn at most this often (seconds), and at the end.
_CURVES_EVERY = 60.0


@contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Log an error of drawing `path` instead of raising it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a font that lacks some letters of a name
            yield
    except Exception as error:
        logger.warning(f"{path} was not drawn ({type(error).__name__}: {error})")


def draw_data(folder: Path, samples: TensorSamples, sampler: EpochSampler) -> None:
    """Write augmented.png, the first training crops, and labels.png, the labels per class.

    labels.png counts at most 500 masks.
    """
    with drawing(folder / "augmented.png"):
        sampler.start_at(0, 0)
        draws = itertools.islice(itertools.chain.from_iterable(sampler), _CROPS)
        loaded = [sample for draw in draws if isinstance(sample := samples[draw], tuple)]
        crops = [(image.permute(1, 2, 0).numpy(), mask.numpy()) for image, mask, _ in loaded]
        save_png(augmented_grid(crops, samples.dataset.table), folder / "augmented.png")
    with drawing(folder / "labels.png"):
        # Imported here since matplotlib takes half a second, and its failure must not end a run.
        from sceneparse.report.plots import draw_file  # noqa: PLC0415
        from sceneparse.report.run_plots import draw_label_shares  # noqa: PLC0415

        dataset, table = samples.dataset, samples.dataset.table
        numbers = spread(len(dataset), _MAX_MASKS)
        counts = count_masks(dataset, numbers)
        title = f"Labels of the {len(dataset)} training images"
        if len(numbers) < len(dataset):
            title += f", counted in {len(numbers)} of them"
        figure = draw_label_shares(counts, table, title)
        draw_file(figure, folder / "labels.png", "png", dpi=100, bbox_inches=None)


@dataclass
class Curves:
    """Draws curves.png of a run folder from its metrics.jsonl."""

    folder: Path
    steps_per_epoch: int
    drawn: float = field(default_factory=time.monotonic)

    def draw(self, *, finished: bool) -> None:
        """Draw the curves if the last time was a minute ago, or if the run is `finished`."""
        if not finished and time.monotonic() - self.drawn < _CURVES_EVERY:
            return
        with drawing(self.folder / "curves.png"):
            from sceneparse.report.run_plots import draw_curves  # noqa: PLC0415

            figure = draw_curves(read_records(self.folder), self.steps_per_epoch)
            figure.savefig(self.folder / "curves.png", dpi=100)
        self.drawn = time.monotonic()


def curves_of(run: Path) -> Figure | None:
    """Draw the curves of a run folder from its log; None if it has none that can be drawn."""
    if not (run / "metrics.jsonl").is_file():
        return None
    figure = None
    with drawing(run / "metrics.jsonl"):
        from sceneparse.report.run_plots import draw_curves  # noqa: PLC0415

        records = read_records(run)
        # Validation comes at the end of an epoch.
        lengths = [r["step"] / r["epoch"] for r in records if r["kind"] == "val"]
        figure = draw_curves(records, round(max(lengths))) if lengths else None
    return figure
