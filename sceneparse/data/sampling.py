"""The order of training samples: a function of seed and epoch alone, in every process."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from sceneparse.data.balance import PixelCounts
from sceneparse.errors import InputError, unknown_name


@dataclass(frozen=True)
class Draw:
    """A sample to load: its index, the epoch, and how often it was drawn before in that epoch.

    `wanted_class`: the class that its crop must show; None: any.
    """

    epoch: int
    index: int
    repeat: int = 0
    wanted_class: int | None = None


# The indices of an epoch, and the classes that the crops must show or None.
Order = tuple[NDArray[np.int64], NDArray[np.int64] | None]


def uniform(generator: np.random.Generator, counts: PixelCounts) -> Order:
    """Draw every sample once."""
    return generator.permutation(len(counts)), None


def class_balanced(generator: np.random.Generator, counts: PixelCounts) -> Order:
    """Draw classes that occur equally often, and for each a sample that has it."""
    present = np.flatnonzero(counts.sum(0))
    classes = generator.choice(present, len(counts))
    return _with_class(generator, counts, classes), None


def rare_crops(generator: np.random.Generator, counts: PixelCounts) -> Order:
    """Draw rare classes more often, and crops that show them (DAFormer, Hoyer et al., CVPR 2022).

    A class of frequency f is drawn with probability softmax((1 - f) / 0.01), as published.
    """
    present = np.flatnonzero(counts.sum(0))
    shares = counts.sum(0)[present] / counts.sum()
    weights = np.exp((shares.min() - shares) / 0.01)
    classes = generator.choice(present, len(counts), p=weights / weights.sum())
    return _with_class(generator, counts, classes), classes


def _with_class(
    generator: np.random.Generator, counts: PixelCounts, classes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Draw, for each of `classes`, a sample that has it."""
    holders = {k: np.flatnonzero(counts[:, k]) for k in np.unique(classes)}
    return np.array([generator.choice(holders[k]) for k in classes])


SAMPLING: dict[str, Callable[[np.random.Generator, PixelCounts], Order]] = {
    "uniform": uniform,
    "class_balanced": class_balanced,
    "rare_crops": rare_crops,
}


class EpochSampler(Sampler[list[Draw]]):
    """Micro-batches of draws for one process; can start in the middle of an epoch.

    Every optimiser step takes the next `batch_size` draws of the epoch's order; each of its
    micro-batches is divided evenly among the processes. The incomplete last step is dropped. With
    `stream`, the next order follows instead, so that all samples come equally often; an epoch has
    the same number of steps. `steps_per_epoch` sets that number, and streams. `sampling` is a name
    of SAMPLING; all but "uniform" need `counts` (size, K), the pixels by sample and class.
    """

    def __init__(  # noqa: PLR0913 - keyword-only settings
        self,
        size: int,
        batch_size: int,
        *,
        sampling: str = "uniform",
        counts: PixelCounts | None = None,
        stream: bool = False,
        steps_per_epoch: int | None = None,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        pieces = accumulate * world_size
        if batch_size % pieces:
            raise InputError(
                f"train.batch_size {batch_size} must be a multiple of "
                f"accumulate x processes {pieces}"
            )
        if size < batch_size and steps_per_epoch is None:
            raise InputError(
                f"{size} training images are fewer than train.batch_size {batch_size}; lower it, "
                "or set train.steps_per_epoch, which repeats images in a batch"
            )
        if sampling not in SAMPLING:
            raise unknown_name("sampling", sampling, SAMPLING)
        self.batch_size, self.sampling, self.seed = batch_size, sampling, seed
        self.size, self.stream = size, stream or steps_per_epoch is not None
        self.counts = np.zeros((size, 0), np.int64) if counts is None else counts
        self.rank, self.world_size = rank, world_size
        self.micro_batch = batch_size // pieces
        self.steps_per_epoch = steps_per_epoch or size // batch_size
        self._pieces_per_step = pieces
        self._epoch = self._first_step = 0
        # Epochs of few steps share a pass, and its order takes seconds for many images.
        self._latest: tuple[int, list[Draw]] = (-1, [])

    def start_at(self, epoch: int, step: int) -> None:
        """Start the next iteration at this optimiser step of this epoch."""
        self._epoch, self._first_step = epoch, step

    def __iter__(self) -> Iterator[list[Draw]]:
        order, used = self._epoch, self._first_step * self.batch_size
        if self.stream:
            steps = self._epoch * self.steps_per_epoch + self._first_step
            order, used = divmod(steps * self.batch_size, self.size)
        orders = map(self._order, itertools.count(order))
        draws = itertools.islice(itertools.chain.from_iterable(orders), used, None)
        steps_left = self.steps_per_epoch - self._first_step
        for number in range(steps_left * self._pieces_per_step):
            piece = list(itertools.islice(draws, self.micro_batch))
            if number % self.world_size == self.rank:
                yield piece

    def _order(self, number: int) -> list[Draw]:
        if self._latest[0] == number:
            return self._latest[1]
        generator = np.random.default_rng((self.seed, number))
        indices, classes = SAMPLING[self.sampling](generator, self.counts)
        wanted = [None] * len(indices) if classes is None else classes.tolist()
        seen: Counter[int] = Counter()
        draws = []
        for index, wanted_class in zip(indices.tolist(), wanted, strict=True):
            draws.append(Draw(number, index, seen[index], wanted_class))
            seen[index] += 1
        self._latest = number, draws
        return draws
