"""Compare exported files with their model before they get their final name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.errors import Explained
from sceneparse.export.graph import ExportedGraph
from sceneparse.inference.networks import MIN_AGREEMENT
from sceneparse.runtime.progress import Progress

# Sizes (B, H, W) that no graph is traced at: odd ones, small ones, one high, one wide.
UNSEEN_SIZES = ((1, 97, 161), (3, 200, 133), (1, 301, 77))
# Scales of real images for int8: at the first ones labels must agree, at the others they may.
NEEDED_SCALES, SMALLER_SCALES = (1.25, 1.0, 0.9), (0.75, 0.5, 0.25, 0.125)
_MIN_SIDE = 32
# Share of the largest logit.
_LOGIT_TOLERANCE = 1e-3
# Share of the labels: they may differ if two classes are equally likely up to rounding.
_LABEL_TOLERANCE = 1e-3

T = TypeVar("T")


class CheckedSize(NamedTuple):
    """A size at which an int8 file was compared, `scale` times the images', and `equal` labels."""

    height: int
    width: int
    scale: float
    equal: float

    @property
    def agrees(self) -> bool:
        """Whether enough labels are equal."""
        return self.equal >= MIN_AGREEMENT

    def __str__(self) -> str:
        size = f"equal labels at scale {self.scale:g} ({self.height} x {self.width})"
        return f"{size}: {self.equal:.2%}"


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
    generator, cases = torch.Generator().manual_seed(0), {}
    for batch, *size in sizes:
        height, width = graph.fitting_size(*size)
        images = torch.rand(batch, 3, height, width, generator=generator) * 255
        images = images if graph.normalize else (images - graph.mean) / graph.std
        cases[f"{batch} x {height} x {width}"] = [images]
    differences = _measure(graph, load, path, cases, _difference)
    lines = [f"difference at {size}: {value:.2g}" for size, value in differences.items()]
    limit = _LABEL_TOLERANCE if graph.argmax else _LOGIT_TOLERANCE
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
    *,
    own_size_only: bool = False,
) -> list[CheckedSize]:
    """Compare the labels of an int8 file on real images (1, 3, H, W); the largest size comes first.

    Raises ExportMismatchError if fewer than 95% of the pixels agree at the images' own size or near
    it. At smaller sizes the share may be lower.
    """
    shortest = min(min(image.shape[-2:]) for image in images)
    smaller = [scale for scale in SMALLER_SCALES if scale * shortest >= _MIN_SIDE]
    scales = (1.0,) if own_size_only else (*NEEDED_SCALES, *smaller)
    cases = {scale: [graph.extend(_scaled(image, scale)) for image in images] for scale in scales}
    agreements = _measure(graph, load, path, cases, _agreement)
    found = []
    for scale, case in cases.items():
        # Of images of several sizes, the smallest.
        height, width = (min(image.shape[axis] for image in case) for axis in (2, 3))
        found.append(CheckedSize(height, width, scale, agreements[scale]))
    if not all(size.agrees for size in found if size.scale not in SMALLER_SCALES):
        lines = "; ".join(map(str, found))
        raise ExportMismatchError(
            f"{path} predicts other labels than its model and was removed: {lines}; "
            f"{MIN_AGREEMENT:.0%} or more must be equal; calibrate on more images (--images), or "
            "keep more convolutions in float32 (--float-layers)"
        )
    return found


def _measure(
    graph: ExportedGraph,
    load: Callable[[], Run],
    path: Path,
    cases: Mapping[T, Sequence[Tensor]],
    measure: Callable[[Tensor, Tensor], float],
) -> dict[T, float]:
    """Return the mean measure of each case; raises ExportMismatchError if the file cannot run."""
    try:
        total = sum(map(len, cases.values()))
        with torch.inference_mode(), Progress("compare", total, "inputs") as progress:
            run = load()
            values = {
                k: [measure(graph(i), run(i)) for i in progress.over(case)]
                for k, case in cases.items()
            }
    except Exception as error:
        raise ExportMismatchError(f"{path} does not run and was removed: {error}") from error
    return {case: sum(found) / len(found) for case, found in values.items()}


def _difference(expected: Tensor, found: Tensor) -> float:
    """Return the share of different labels, or of the largest logit that logits differ by."""
    if expected.shape != found.shape or not expected.is_floating_point():
        return 1 - _agreement(expected, found)
    scale = expected.abs().max().clamp(min=1e-6)
    return float((expected - found).abs().max() / scale)


def _agreement(expected: Tensor, found: Tensor) -> float:
    """Return the share of equal labels, of labels (B, H, W) or logits (B, K, h, w)."""
    if expected.shape != found.shape:
        return 0.0
    if expected.is_floating_point():
        expected, found = expected.argmax(dim=1), found.argmax(dim=1)
    return (expected == found).double().mean().item()


def _scaled(image: Tensor, scale: float) -> Tensor:
    """Resize an image (1, 3, H, W) to an odd size near `scale` times its own; 1: no change."""
    size = [int(side * scale) | 1 for side in image.shape[-2:]]
    return image if scale == 1 else F.interpolate(image, size, mode="bilinear", antialias=True)
