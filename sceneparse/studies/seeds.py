"""Runs that differ in their seed: last and best epoch, mean, deviation and interval."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from sceneparse.errors import InputError, refusing
from sceneparse.files import read_text
from sceneparse.metrics.significance import LEVEL
from sceneparse.report.plots import add_legend, save_plot
from sceneparse.report.tables import Table, write_json


@dataclass(frozen=True)
class SeedCurves:
    """Test accuracy, test loss and training loss of a run after each epoch, (E,).

    `best`: epoch (from 0) with the best accuracy on held-out training images, or on the test images
    if there are none, which is a leak and is named so.
    """

    seed: str
    test_accuracy: NDArray[np.float64]
    test_loss: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    best: int
    held_out: bool


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation and 95% interval of the mean (Student's t) over seeds."""

    values: tuple[float, ...]
    mean: float
    deviation: float
    low: float
    high: float

    def cells(self, write: Callable[[float], str], no_interval: str = "-") -> list[str]:
        """Write mean, deviation and interval as cells of a table."""
        if math.isnan(self.deviation):
            return [write(self.mean), "-", no_interval]
        interval = f"{write(self.low)} to {write(self.high)}"
        return [write(self.mean), write(self.deviation), interval]


def spread_of(values: Sequence[float]) -> Spread:
    """Describe values of several seeds; deviation and interval are NaN for one, or not finite."""
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    if len(sample) < 2 or not np.isfinite(sample).all():
        return Spread(tuple(values), mean, math.nan, math.nan, math.nan)
    deviation = float(sample.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(sample) - 1)) * deviation / math.sqrt(len(sample))
    return Spread(tuple(values), mean, deviation, mean - half, mean + half)


def spreads_of(curves: Sequence[SeedCurves]) -> dict[str, Spread]:
    """Describe test accuracy and loss after the last and after the best epoch over the seeds."""
    values = {
        "accuracy": [c.test_accuracy[-1] for c in curves],
        "loss": [c.test_loss[-1] for c in curves],
        "best_accuracy": [c.test_accuracy[c.best] for c in curves],
        "best_loss": [c.test_loss[c.best] for c in curves],
    }
    return {name: spread_of([*map(float, found)]) for name, found in values.items()}


def seed_folders(folder: Path) -> list[Path]:
    """Return the runs of a configuration, FOLDER/seed-N, by number."""
    runs = [path for path in folder.glob("seed-*") if path.is_dir()]
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def read_seed(folder: Path, epochs: int | None = None) -> SeedCurves:
    """Read the curves of a run; raises InputError if it has none, or not `epochs` epochs."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise InputError(f"'{folder}' holds no run of `sceneparse classify`")
    losses: dict[int, list[float]] = {}
    with refusing(path, "damaged or not of `sceneparse classify`"):
        records = [json.loads(line) for line in read_text(path).splitlines()]
        tested = [record for record in records if record["kind"] == "val"]
        accuracy, loss = (
            np.array([record[name] for record in tested]) for name in ("test_accuracy", "test_loss")
        )
        for record in records:
            if record["kind"] == "train":
                losses.setdefault(record["epoch"], []).append(record["loss"])
        means = [np.mean(losses.get(record["epoch"], [math.nan])) for record in tested]
    if not tested:
        raise InputError(f"'{folder}' has not finished an epoch yet; resume with --resume")
    if epochs not in {None, len(tested)}:
        raise InputError(f"{path} holds {len(tested)} of the {epochs} epochs of its run")
    held_out = "holdout_accuracy" in tested[0]
    chosen = [record["holdout_accuracy" if held_out else "test_accuracy"] for record in tested]
    return SeedCurves(
        seed=folder.name,
        test_accuracy=accuracy,
        test_loss=loss,
        train_loss=np.array(means),
        best=int(np.argmax(chosen)),
        held_out=held_out,
    )


def summary_of(curves: Sequence[SeedCurves]) -> dict[str, Spread]:
    """Return the spreads over the seeds; their names tell how the best epoch was chosen."""
    best = "best epoch by held-out images" if curves[0].held_out else "best epoch by test images"
    names = [f"{kind}, {epoch}" for epoch in ("last epoch", best) for kind in ("accuracy", "loss")]
    return dict(zip(names, spreads_of(curves).values(), strict=True))


def seeds_table(curves: Sequence[SeedCurves]) -> str:
    """Lay out each measure on the test images: every seed, mean, deviation, interval."""
    heads = ["on the test images", *(c.seed for c in curves), "mean", "sd", "95% interval"]
    missing = "needs two seeds" if len(curves) == 1 else "-"
    write = "{:.4f}".format
    rows = [
        [name, *map(write, row.values), *row.cells(write, missing)]
        for name, row in summary_of(curves).items()
    ]
    caution = (
        "\nThe best epoch was chosen by the test images, which flatters it: report the last, or "
        "set data.holdout."
    )
    return Table("Seeds", heads, rows).as_text() + ("" if curves[0].held_out else caution)


def write_summary(folder: Path, curves: Sequence[SeedCurves]) -> None:
    """Write summary.json, and curves as PNG and SVG."""
    spreads = summary_of(curves)
    write_json(folder / "summary.json", {name: asdict(row) for name, row in spreads.items()})
    save_plot(draw_curves({"": curves}), folder / "curves")


def draw_curves(groups: Mapping[str, Sequence[SeedCurves]]) -> Figure:
    """Draw test accuracy, test loss and training loss by epoch: means, bands of one deviation."""
    figure = Figure(figsize=(13, 4))
    measures = ("test_accuracy", "test_loss", "train_loss")
    lines = {}
    for axes, measure in zip(figure.subplots(1, 3), measures, strict=True):
        for name, curves in groups.items():
            length = min(len(c.test_accuracy) for c in curves)
            values = np.stack([getattr(c, measure)[:length] for c in curves])
            epochs, mean = np.arange(1, length + 1), values.mean(axis=0)
            # A single epoch is a point, which a line would not show.
            (lines[name],) = axes.plot(epochs, mean, "o-" if length == 1 else "-")
            if len(curves) > 1:
                band, color = values.std(axis=0, ddof=1), lines[name].get_color()
                axes.fill_between(epochs, mean - band, mean + band, color=color, alpha=0.2)
        axes.set_xlabel("epoch")
        axes.set_title(measure.replace("_", " "))
        axes.grid(alpha=0.3)
    if any(groups):
        add_legend(figure.axes[0], lines, title="mean, band of one deviation")
    return figure
