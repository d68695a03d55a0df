"""What the tests of formats share: images to annotate, the command, and the masks it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sceneparse.cli import convert as convert_command
from sceneparse.cli.command import run
from sceneparse.data.datasets import create_dataset

HEIGHT, WIDTH = 24, 32


def save_images(
    folder: Path, names: Sequence[str], size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Path:
    """Save images of noise (height, width) that do not look alike; names may hold folders."""
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        small = random.integers(0, 255, (max(size[0] // 4, 1), max(size[1] // 4, 1), 3))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small.astype(np.uint8)).resize(size[::-1]).save(path)
    return folder


def convert(source: object, target: Path, *arguments: object) -> int:
    """Run `sceneparse convert` and return its exit code."""
    given = [str(argument) for argument in (source, target, *arguments)]
    with pytest.raises(SystemExit) as stop:
        run(convert_command.parser(), convert_command.main, given)
    return int(stop.value.code or 0)


def masks_of(target: Path, split: str = "all") -> dict[str, NDArray[np.unsignedinteger]]:
    """Return the masks of a split of the result by name, as training reads them."""
    dataset = create_dataset("folder", target, split)
    return {name: np.asarray(mask) for _, mask, name in (dataset[i] for i in range(len(dataset)))}


def classes_of(target: Path) -> list[str]:
    """Return the classes of the result."""
    return (target / "classes.txt").read_text(encoding="utf-8").splitlines()
