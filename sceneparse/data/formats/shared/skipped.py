"""What a format skips, counted by reason."""

from __future__ import annotations

from collections import Counter


class Skipped:
    """Counts what a format skips, by reason, with the first places."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.places: dict[str, str] = {}

    def add(self, reason: str, place: object, count: int = 1) -> None:
        """Count something skipped, such as "shapes of one point", found at `place`."""
        self.counts[reason] += count
        self.places.setdefault(reason, str(place))

    def update(self, other: Skipped) -> None:
        """Add what another one counts."""
        for reason, count in other.counts.items():
            self.add(reason, other.places[reason], count)

    def lines(self) -> list[str]:
        """Return a line per reason: how many, and where the first one is."""
        return [f"{n} {reason}, e.g. {self.places[reason]}" for reason, n in self.counts.items()]
