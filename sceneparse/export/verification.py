"""Compare exported files with their model before they get their final name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.errors import Explained
from sceneparse.export.graph import ExportedGraph

# Sizes (B, H, W) that no graph is traced at: odd ones, small ones, one high, one wide.
UNSEEN_SIZES = ((1, 97, 161), (3, 200, 133), (1, 301, 77))
# The same for real images.
UNSEEN_SCALES = (0.75, 0.9, 1.25)
# Of the largest logit.
_TOLERANCE = 1e-3
# Labels may differ where two classes are equally likely up to rounding,
_LABEL_TOLERANCE = 1e-3
# and in int8 near edges.
_MIN_AGREEMENT = 0.95

Run = Callable[[Tensor], Tensor]
Sizes = tuple[tuple[int, int, int], ...]


class ExportMismatchError(Explained):
    """An exported file computes something else than its model; the file is gone."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; the file is renamed to `path` if nothing is raised.

    After a mismatch there is no file at all: one of an earlier export might be mistaken for this.
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
    """Compare a file, loaded and run by `load`, with the graph it was made from, on noise.

    Returns a line per size (B, H, W). Raises ExportMismatchError if logits differ by more than a
    thousandth of the largest logit, or labels in more than a thousandth of the pixels.
    """
    generator = torch.Generator().manual_seed(0)
    differences: dict[str, float] = {}
    with _or_mismatch(path):
        run = load()
        for batch, height, width in sizes:
            images = torch.rand(batch, 3, height, width, generator=generator) * 255
            images = images if graph.normalize else (images - graph.mean) / graph.std
            found = run(images)
            difference = _difference(graph(images), found, graph.argmax)
            differences[f"{batch} x {height} x {width}"] = difference
    limit = _LABEL_TOLERANCE if graph.argmax else _TOLERANCE
    lines = [f"difference at {size}: {value:.2g}" for size, value in differences.items()]
    if not all(value <= limit for value in differences.values()):
        raise ExportMismatchError(
            f"{path} computes something else than its model and was removed: {'; '.join(lines)}"
        )
    return lines


def compare_labels(
    graph: ExportedGraph,
    load: Callable[[], Run],
    path: Path,
    images: Sequence[Tensor],
    scales: Sequence[float],
) -> list[str]:
    """Compare the labels of a file that computes less exactly, on real images (1, 3, H, W).

    Returns a line per scale. Raises ExportMismatchError if fewer than 95 of 100 pixels agree.
    """
    agreements: dict[float, float] = {}
    with _or_mismatch(path):
        run = load()
        for scale in scales:
            scaled = [_scaled(image, scale) for image in images]
            equal = [_agreement(_labels(graph(i)), _labels(run(i))) for i in scaled]
            agreements[scale] = sum(equal) / len(equal)
    lines = [f"equal labels at scale {scale}: {value:.2%}" for scale, value in agreements.items()]
    if not all(value >= _MIN_AGREEMENT for value in agreements.values()):
        raise ExportMismatchError(
            f"{path} decides otherwise than its model and was removed: {'; '.join(lines)}; "
            f"{_MIN_AGREEMENT:.0%} or more must be equal"
        )
    return lines


@contextmanager
def _or_mismatch(path: Path) -> Iterator[None]:
    """Turn the failure to load or run a file into an ExportMismatchError."""
    try:
        with torch.inference_mode():
            yield
    except Exception as error:
        raise ExportMismatchError(f"{path} does not run and was removed: {error}") from error


def _difference(expected: Tensor, found: Tensor, are_labels: bool) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if are_labels:
        return 1 - _agreement(expected, found)
    scale = expected.abs().max().clamp(min=1e-6)
    return ((expected - found).abs().max() / scale).item()


def _scaled(image: Tensor, scale: float) -> Tensor:
    """Resize an image (1, 3, H, W) to an odd size near `scale` times its own; 1: leave it."""
    size = [int(side * scale) | 1 for side in image.shape[-2:]]
    return image if scale == 1 else F.interpolate(image, size, mode="bilinear")


def _labels(found: Tensor) -> Tensor:
    """Return labels (B, H, W) of labels or logits (B, K, h, w)."""
    return found.argmax(dim=1) if found.is_floating_point() else found


def _agreement(expected: Tensor, found: Tensor) -> float:
    return (expected == found).double().mean().item() if expected.shape == found.shape else 0.0
