"""The pictures that the page offers: given ones, a model's validation images, or drawn scenes."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sceneparse.data.datasets import classes_unless_named, create_dataset, spread
from sceneparse.data.reading import read_image
from sceneparse.data.synthetic import render_scene
from sceneparse.errors import InputError
from sceneparse.inference.inputs import find_sources
from sceneparse.models.segmentation import SegmentationNetwork
from sceneparse.report.pages import picture_uri
from sceneparse.report.pictures import Picture

logger = logging.getLogger(__name__)

# Reads or draws a picture (H, W, 3); takes the bits that 16-bit images use, see read_image.
Load = Callable[[int | None], Picture]

MAX_SAMPLES = 12
_THUMBNAIL = 280
_SCENES, _SCENE_SIZE = 6, (384, 576)
# No dataset of `sceneparse scenes` holds scenes of these numbers.
_FIRST_SCENE = 10_000_000


class Sample(NamedTuple):
    """A picture to choose; `thumbnail` is an address for an <img>."""

    name: str
    load: Load
    thumbnail: str


class Samples(NamedTuple):
    """The pictures to choose, and what they are."""

    description: str
    pictures: list[Sample]


def given_samples(inputs: Sequence[str], bit_depth: int | None) -> Samples:
    """Return some of the images that files, folders and globs name; raises InputError if none."""
    sources = [source for source in find_sources(inputs) if not source.is_video]
    found = _readable([(source.name, source.path) for source in sources], bit_depth)
    if not found:
        raise InputError(f"no image of --samples {' '.join(inputs)} can be read")
    return Samples(f"{len(found)} of {len(sources)} images in {' '.join(inputs)}", found)


def usual_samples(network: SegmentationNetwork) -> Samples:
    """Return some validation images of a model, or drawn street scenes if they are not found."""
    data: dict[str, Any] = network.meta.get("data", {})
    try:
        root, split = data.get("root"), data.get("val_split")
        if root is None or split is None:
            raise InputError("the model does not name its validation data")
        root = Path(root).expanduser()
        name = data.get("dataset", "folder")
        classes = classes_unless_named(name, root, network.classes)
        pairs = create_dataset(name, root, split, classes, complete=False).pairs
        found = _readable([(pair.name, pair.image) for pair in pairs], network.bit_depth)
        if not found:
            raise InputError(f"no image of split '{split}' of {root} can be read")
    except InputError as error:
        logger.info(f"no validation images as samples ({error}); --samples FOLDER offers others")
        return Samples("drawn street scenes", _drawn())
    return Samples(f"{len(found)} of {len(pairs)} images, split {split} of {root}", found)


def _readable(files: Sequence[tuple[str, Path]], bit_depth: int | None) -> list[Sample]:
    """Return samples of files spread evenly over all; log those that cannot be read."""
    some = [files[index] for index in spread(len(files), MAX_SAMPLES)]
    named = ((name, partial(read_image, path)) for name, path in some)
    return list(_samples(named, bit_depth))


def _drawn() -> list[Sample]:
    def draw(number: int, _: int | None) -> Picture:
        return render_scene(*_SCENE_SIZE, seed=0, index=_FIRST_SCENE + number)[0]

    numbered = ((f"scene {number + 1}", partial(draw, number)) for number in range(_SCENES))
    return list(_samples(numbered, None))


def _samples(named: Iterable[tuple[str, Load]], bit_depth: int | None) -> Iterator[Sample]:
    for name, load in named:
        try:
            yield Sample(name, load, picture_uri(load(bit_depth), _THUMBNAIL))
        except InputError as error:
            logger.info(f"skipped sample: {error}")
