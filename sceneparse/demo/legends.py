"""The legends of a page: which classes the models found, how much of each, and in what colour."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sceneparse.data.labels import LabelTable
from sceneparse.demo.results import Result
from sceneparse.report.pictures import transparent_classes

LETTERS = "AB"


@dataclass(frozen=True)
class Legend:
    """The classes of one model, or of two that have the same classes in whatever order.

    Classes are numbered as in the first of its models. `numbers`: per model, its own number of each
    class.
    """

    models: Sequence[int]
    table: LabelTable
    numbers: Sequence[Sequence[int]]

    @property
    def backgrounds(self) -> set[int]:
        """The classes that are not drawn unless they are switched on."""
        return {k for k, is_clear in enumerate(transparent_classes(self.table)) if is_clear}

    def own_numbers(self, model: int, classes: Collection[int]) -> list[int]:
        """Return the numbers that classes have in a model."""
        numbers = self.numbers[self.models.index(model)]
        return [numbers[k] for k in classes]

    def choices(self, result: Result) -> list[tuple[str, int]]:
        """Return the classes that were found: a line with their shares, and the number.

        The largest are first.
        """
        shares = [self._shares(result, k) for k in range(self.table.num_classes)]
        found = [k for k, row in enumerate(shares) if max(row) > 0]
        order = sorted(found, key=lambda k: -max(shares[k]))
        return [(f"{self.table.names[k]}: {self._shown(shares[k])}", k) for k in order]

    def _shares(self, result: Result, number: int) -> list[float]:
        """Return the share of the picture that a class covers, in each model."""
        own = zip(self.models, self.numbers, strict=True)
        return [result.shares[model][numbers[number]] for model, numbers in own]

    def _shown(self, shares: Sequence[float]) -> str:
        if len(shares) == 1:
            return _percent(shares[0])
        return ", ".join(f"{LETTERS[k]} {_percent(share)}" for k, share in enumerate(shares))


def legends_of(tables: Sequence[LabelTable], order: Sequence[int] | None) -> list[Legend]:
    """Return the legends of one or two models: one for both if there is a class_order."""
    if order is not None:
        own = range(len(order))
        return [Legend([0, 1], tables[0], [own, [order.index(k) for k in own]])]
    return [Legend([k], table, [range(table.num_classes)]) for k, table in enumerate(tables)]


def class_order(first: Sequence[str], second: Sequence[str]) -> list[int] | None:
    """Return the number in `first` of each class in `second`; None if the classes differ."""
    numbers = {name: number for number, name in enumerate(first)}
    if len(numbers) != len(first) or sorted(first) != sorted(second):
        return None
    return [numbers[name] for name in second]


def _percent(share: float) -> str:
    if 0 < share < 0.00005:
        return "<0.01%"
    return f"{100 * share:.2f}%" if 0 < share < 0.001 else f"{100 * share:.1f}%"
