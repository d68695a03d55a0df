"""What a model knows of itself in plain values: its builder's arguments, classes, normalisation."""

from __future__ import annotations

from typing import Any

from sceneparse.errors import InputError

Channels = tuple[float, float, float]


class Described:
    """Gives a network `meta`: "model" holds its builder's arguments, a trained one has more."""

    meta: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Names of the classes a trained model knows, by number."""
        return list(self._described("classes"))

    @property
    def colors(self) -> list[tuple[int, int, int]]:
        """RGB colours 0..255 of the classes a trained segmentation model knows, by number."""
        return [(red, green, blue) for red, green, blue in self._described("colors")]

    @property
    def mean(self) -> Channels:
        """RGB mean in 0..1 that images are normalised with."""
        red, green, blue = self._described("mean")
        return red, green, blue

    @property
    def std(self) -> Channels:
        """RGB standard deviation in 0..1 that images are normalised with."""
        red, green, blue = self._described("std")
        return red, green, blue

    def _described(self, key: str) -> Any:  # noqa: ANN401 - meta holds plain values
        if key not in self.meta:
            raise InputError(f"this model has no {key}: it is not from a training run")
        return self.meta[key]
