"""Compare exported files with their model before they get their final name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.errors import Explained
from sceneparse.export.graph import ExportedGraph

# Sizes (B, H, W) that no graph is traced at: odd ones, small ones, one high, one wide.
UNSEEN_SIZES = ((1, 97, 161), (3, 200, 133), (1, 301, 77))
# The same for real images.
UNSEEN_SCALES = (0.75, 0.9, 1.25)
# Share of the largest logit.
_LOGIT_TOLERANCE = 1e-3
# Share of the labels: they may differ if two classes are equally likely up to rounding,
_LABEL_TOLERANCE = 1e-3
# and in int8 near edges.
_MIN_AGREEMENT = 0.95

T = TypeVar("T")
Run = Callable[[Tensor], Tensor]
Sizes = Sequence[tuple[int, int, int]]


class ExportMismatchError(Explained):
    """An exported file computes something else than its model; the file was removed."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; the file is renamed to `path` if nothing is raised.

    After a mismatch `path` does not exist: a file of an earlier export could be mistaken for it.
    """
    aside = path.with_name(f".{path.stem}.unverified{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    except ExportMismatchError:
        path.unlink(missing_ok=True)
        raise
    finally:
        aside.unlink(missing_ok=True)


def compare(graph: ExportedGraph, load: Callable[[], Run], path: Path, sizes: Sizes) -> list[str]:
    """Compare a file, loaded by `load`, with its graph on noise; return a line per size (B, H, W).

    Raises ExportMismatchError if logits differ by more than a thousandth of the largest logit, or
    labels in more than a thousandth of the pixels.
    """
    generator = torch.Generator().manual_seed(0)

    def difference_at(size: tuple[int, int, int], run: Run) -> float:
        batch, height, width = size
        images = torch.rand(batch, 3, height, width, generator=generator) * 255
        images = images if graph.normalize else (images - graph.mean) / graph.std
        expected, found = graph(images), run(images)
        if graph.argmax or expected.shape != found.shape:
            return 1 - _agreement(expected, found)
        scale = expected.abs().max().clamp(min=1e-6)
        return float((expected - found).abs().max() / scale)

    cases = {f"difference at {' x '.join(map(str, size))}": size for size in sizes}
    limit = _LABEL_TOLERANCE if graph.argmax else _LOGIT_TOLERANCE
    problem = "computes something else than its model"
    return _verify(path, load, cases, difference_at, "{:.2g}", lambda x: x <= limit, problem)


def compare_labels(
    graph: ExportedGraph,
    load: Callable[[], Run],
    path: Path,
    images: Sequence[Tensor],
    scales: Sequence[float],
) -> list[str]:
    """Compare the labels of an int8 file on real images (1, 3, H, W); return a line per scale.

    Raises ExportMismatchError if fewer than 95% of the pixels agree.
    """

    def agreement_at(scale: float, run: Run) -> float:
        scaled = [_scaled(image, scale) for image in images]
        equal = [_agreement(_labels(graph(i)), _labels(run(i))) for i in scaled]
        return sum(equal) / len(equal)

    cases = {f"equal labels at scale {scale}": scale for scale in scales}
    problem = f"predicts other labels than its model ({_MIN_AGREEMENT:.0%} or more must be equal)"
    return _verify(
        path, load, cases, agreement_at, "{:.2%}", lambda x: x >= _MIN_AGREEMENT, problem
    )


def _verify(
    path: Path,
    load: Callable[[], Run],
    cases: Mapping[str, T],
    measure: Callable[[T, Run], float],
    form: str,
    passes: Callable[[float], bool],
    problem: str,
) -> list[str]:
    """Load a file and measure it in all cases; return a line per case, or raise the mismatch."""
    try:
        with torch.inference_mode():
            run = load()
            values = {name: measure(case, run) for name, case in cases.items()}
    except Exception as error:
        raise ExportMismatchError(f"{path} does not run and was removed: {error}") from error
    lines = [f"{name}: {form.format(value)}" for name, value in values.items()]
    if not all(map(passes, values.values())):
        raise ExportMismatchError(f"{path} {problem} and was removed: {'; '.join(lines)}")
    return lines


def _scaled(image: Tensor, scale: float) -> Tensor:
    """Resize an image (1, 3, H, W) to an odd size near `scale` times its own; 1: no change."""
    size = [int(side * scale) | 1 for side in image.shape[-2:]]
    return image if scale == 1 else F.interpolate(image, size, mode="bilinear")


def _labels(found: Tensor) -> Tensor:
    """Return labels (B, H, W) of labels or logits (B, K, h, w)."""
    return found.argmax(dim=1) if found.is_floating_point() else found


def _agreement(expected: Tensor, found: Tensor) -> float:
    return (expected == found).double().mean().item() if expected.shape == found.shape else 0.0
