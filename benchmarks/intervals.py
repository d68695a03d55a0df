"""Measure how often 95% intervals of IoU hold the truth: `python -m benchmarks.intervals`.

Many small data sets are drawn from a known world: images have easy and hard days (all their classes
are recognised better or worse together), classes differ in size and difficulty, and in the world
"rare" five of eleven classes are in 5 to 20% of the images. The true score comes from 800,000
images. Two models share images and days; their difference is measured as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from sceneparse.metrics.confusion import class_iou
from sceneparse.metrics.intervals import bootstrap_mean_iou, compare_paired, mean_iou_intervals

Floats = NDArray[np.float64]
Ends = tuple[float, float]
_CLASSES, _DRAWS, _PIXELS = 11, 1000, 172_800
_TRUTH_IMAGES, _PART = 800_000, 20_000


class World:
    """Draws counts per image (N, 3, K) of two models: right, true and predicted pixels."""

    def __init__(self, name: str, seed: int = 7) -> None:
        fixed = np.random.default_rng(seed)
        usual, rare = fixed.uniform(0.5, 1.0, _CLASSES), fixed.uniform(0.05, 0.2, 5)
        self.presence = usual if name == "common" else np.concatenate([usual[:6], rare])
        self.size = np.exp(fixed.normal(0, 1.2, _CLASSES))
        self.difficulty = fixed.normal(1.2, 1.0, _CLASSES)
        confused = fixed.dirichlet(np.full(_CLASSES, 0.5), _CLASSES)
        np.fill_diagonal(confused, 0)
        self.confused = confused / confused.sum(axis=1, keepdims=True)
        self.generator = np.random.default_rng(seed)

    def draw(self, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw the counts of both models on the same images; the second is better."""
        one, each = self.generator, (images, _CLASSES)
        truth = (one.random(each) < self.presence) * self.size * one.gamma(0.8, 1.25, each)
        truth *= _PIXELS / np.maximum(truth.sum(axis=1, keepdims=True), 1e-9)
        common = self.difficulty + one.normal(0, 0.7, (images, 1)) + one.normal(0, 0.8, each)
        models = []
        for gain in (0.0, 0.15):
            right = truth * expit(common + gain + one.normal(0, 0.4, each))
            predicted = right + (truth - right) @ self.confused
            models.append(np.stack([right, truth, predicted], axis=1).round().astype(np.int64))
        return models[0], models[1]

    def truth(self) -> tuple[float, float, Floats]:
        """Return the first model's mean IoU, the second's gain, and the first's IoU per class."""
        sums = np.zeros((2, 3, _CLASSES))
        for _ in range(_TRUTH_IMAGES // _PART):
            sums += [counts.sum(axis=0) for counts in self.draw(_PART)]
        first, second = score(sums)
        return float(first), float(second - first), class_iou(*sums[0])


def score(sums: Floats) -> Floats:
    """Return mean IoU over the classes that occur: (..., 3, K) -> (...)."""
    right, union = sums[..., 0, :], sums[..., 1, :] + sums[..., 2, :] - sums[..., 0, :]
    known = union > 0
    result: Floats = (right / np.where(known, union, 1)).sum(axis=-1) / known.sum(axis=-1)
    return result


class Sample:
    """The bootstrap draws and the scores without one image, of one data set."""

    def __init__(self, parts: list[Floats], generator: np.random.Generator) -> None:
        self.parts, self.n = parts, len(parts[0])
        shares = np.full(self.n, 1 / self.n)
        self.weights = generator.multinomial(self.n, shares, _DRAWS).astype(float)
        self.value = float(self._of([x.sum(axis=0) for x in parts]))
        self.sums = [np.tensordot(self.weights, x, 1) for x in parts]
        self.draws = self._of(self.sums)
        left = self._of([x.sum(axis=0) - x for x in parts])
        self.influence = left.mean() - left

    @staticmethod
    def _of(sums: list[Floats]) -> Floats:
        scores = [score(part) for part in sums]
        return scores[0] if len(scores) == 1 else scores[1] - scores[0]

    def percentile(self) -> Ends:
        """Quantiles of the draws."""
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return float(low), float(high)

    def bca(self) -> Ends:
        """Bias corrected and accelerated percentiles (Efron, 1987)."""
        cubes, squares = (self.influence**3).sum(), (self.influence**2).sum()
        acceleration = cubes / (6 * max(squares, 1e-30) ** 1.5)
        below = np.clip((self.draws < self.value).mean(), 1 / _DRAWS, 1 - 1 / _DRAWS)
        bias = stats.norm.ppf(below)
        z = bias + stats.norm.ppf([0.025, 0.975])
        low, high = np.quantile(self.draws, stats.norm.cdf(bias + z / (1 - acceleration * z)))
        return float(low), float(high)

    def studentised(self) -> Ends:
        """Bootstrap-t with standard errors by the delta method (Efron and Tibshirani, 1993)."""
        errors = self._errors(self.sums, self.weights)
        known = errors > 1e-9
        ratios = (self.draws - self.value)[known] / errors[known]
        low, high = np.quantile(ratios, [0.025, 0.975])
        own = self._errors([x.sum(axis=0)[None] for x in self.parts], np.ones((1, self.n)))[0]
        return self.value - high * own, self.value - low * own

    def _errors(self, sums: list[Floats], weights: Floats) -> Floats:
        total = np.zeros((len(weights), self.n))
        for sign, part, x in zip((-1, 1)[-len(sums) :], sums, self.parts, strict=True):
            union, own = (s[:, 1] + s[:, 2] - s[:, 0] for s in (part, x))
            share = np.where(union > 0, 1 / np.where(union > 0, union, 1), 0)
            share /= (union > 0).sum(axis=1, keepdims=True)
            iou = part[:, 0] / np.where(union > 0, union, 1)
            total += sign * (share @ x[:, 0].T - (share * iou) @ own.T)
        result: Floats = np.sqrt((weights * total**2).sum(axis=1))
        return result


RULES: dict[str, Callable[[Sample], Ends]] = {
    "percentile": Sample.percentile,
    "BCa": Sample.bca,
    "studentised": Sample.studentised,
}


def measure(world: World, images: int, sets: int, truth: tuple[float, float, Floats]) -> list[str]:
    """Return a line of coverage and mean width per rule: of mean IoU, a difference, a class."""
    held: dict[str, list[tuple[bool, float]]] = {}

    def add(name: str, ends: Ends, actual: float) -> None:
        held.setdefault(name, []).append((ends[0] <= actual <= ends[1], ends[1] - ends[0]))

    for _ in range(sets):
        first, second = world.draw(images)
        single = Sample([first.astype(float)], world.generator)
        both = Sample([first.astype(float), second.astype(float)], world.generator)
        for name, rule in RULES.items():
            add(name, rule(single), truth[0])
            add(f"{name}, difference", rule(both), truth[1])
        ours, classes = mean_iou_intervals(first)
        add("jackknife t", (ours.low, ours.high), truth[0])
        _, by_draws = bootstrap_mean_iou(first, 300)
        for name, found in (("percentile, class", by_draws), ("jackknife t, class", classes)):
            for one, actual in zip(found, truth[2], strict=True):
                if not np.isnan(one.low):
                    add(name, (one.low, one.high), actual)
        gain = compare_paired(first, second, 1)[0].interval
        add("jackknife t, difference", (gain.low, gain.high), truth[1])
    order = sorted(held.items(), key=lambda item: item[0].partition(",")[2])
    means = ((name, np.mean(found, axis=0)) for name, found in order)
    return [f"  {name:<26} {hits:6.1%}  width {width:.4f}" for name, (hits, width) in means]


def main() -> None:
    """Print the coverage in both worlds at each number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000, help="data sets per line")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 10, 30, 100])
    options = parser.parse_args()
    for name in ("common", "rare"):
        world = World(name)
        truth = world.truth()
        for images in options.images:
            print(f"{name} classes, {images} images, true mean IoU {truth[0]:.4f}", flush=True)
            print(*measure(world, images, options.sets, truth), sep="\n", flush=True)


if __name__ == "__main__":
    main()
