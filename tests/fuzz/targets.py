"""What is fuzzed: a function of bytes for each kind of input, and valid inputs to begin with.

A target accepts its input or raises an error of ours (Explained); anything else is a finding.
"""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import save

from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.datasets import create_dataset
from sceneparse.data.formats import FORMATS, find_format
from sceneparse.data.reading import image_size, read_colors, read_image, read_mask
from sceneparse.errors import Explained
from sceneparse.files import MAX_DESCRIPTION, read_arrays, read_json
from sceneparse.inference.inputs import find_sources
from sceneparse.inference.predictor import Predictor
from sceneparse.inference.video import VideoReader
from sceneparse.models import create_segmentation_model
from sceneparse.models.description import check_description
from sceneparse.models.tensor_files import read_tensors
from sceneparse.models.weights import read_weights, rebuild
from tests.fuzz import seeds
from tests.fuzz.mutations import mutated, with_checksums, zipped
from tests.fuzz.structures import (
    changed_csv,
    changed_header,
    changed_json,
    changed_lines,
    changed_yaml,
)


@cache
def folder() -> Path:
    """Where inputs are written; gone when the process ends."""
    holder = tempfile.TemporaryDirectory(prefix="fuzz-")
    _holders.append(holder)
    return Path(holder.name)


_holders: list[Any] = []


def written(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


def fuzz_image(data: bytes) -> None:
    """The bytes of an image, whatever its format."""
    path = written("image", data)
    with suppress(Explained):
        image_size(path)
    with suppress(Explained):
        read_image(path, 12)
    read_image(path)


def fuzz_mask(data: bytes) -> None:
    """The bytes of a mask."""
    path = written("mask", data)
    with suppress(Explained):
        read_colors(path)
    mask = read_mask(path)
    assert mask.ndim == 2
    assert mask.dtype in (np.uint8, np.uint16)


def fuzz_config(kind: type[SegConfig] | type[ClsConfig]) -> Callable[[bytes], None]:
    """Make the target of a configuration; lines that begin with @ are overrides."""

    def fuzz(data: bytes) -> None:
        lines = data.split(b"\n")
        path = written("config.yaml", b"\n".join(x for x in lines if not x.startswith(b"@")))
        overrides = [x[1:].decode("utf-8", "surrogateescape") for x in lines if x.startswith(b"@")]
        load_config(path, overrides, kind)

    return fuzz


def fuzz_description(data: bytes) -> None:
    """What a checkpoint says of its model, up to a predictor."""
    path = written("meta.json", data)
    meta = check_description(read_json(path, MAX_DESCRIPTION), path)
    model = rebuild(create_segmentation_model, meta["model"], seeds.weights(), str(path))
    model.meta = meta
    Predictor(model, device="cpu")


def fuzz_safetensors(data: bytes) -> None:
    """The weights of a checkpoint."""
    state = read_weights(written("x.safetensors", data))
    rebuild(create_segmentation_model, seeds.MODEL, state, "x")


def fuzz_pickle(data: bytes) -> None:
    """Weights as torch.save writes them, or the training state of a checkpoint."""
    read_tensors(written("x.pth", data))
    with suppress(Explained):
        read_weights(folder() / "x.pth")


def fuzz_list(data: bytes) -> None:
    """A list of images and masks, the classes of a dataset, and a list of inputs."""
    root = folder() / "root"
    root.mkdir(exist_ok=True)
    (root / "list.txt").write_bytes(data)
    for dataset, split in (("folder", "list.txt"), ("camvid", "list.txt")):
        with suppress(Explained):
            create_dataset(dataset, root, split, ["a", "b"] if dataset == "folder" else None)
    (root / "ImageSets/SegmentationContext").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/SegmentationContext/x.txt").write_bytes(data)
    (root / "classes.txt").write_bytes(data)
    (root / "colors.txt").write_bytes(data[::-1])
    for dataset, split in (("pascal_context_59", "x"), ("folder", "x.csv")):
        with suppress(Explained):
            create_dataset(dataset, root, split)
    words = data.decode("utf-8", "surrogateescape").split("\n")
    with suppress(Explained):
        # Globs and folders, such as "", may go through the whole file system.
        plain = [word.replace("*", "x").replace("/", "") for word in words]
        find_sources([word for word in plain if word.strip(".")])


def fuzz_annotations(kind: str, name: str) -> Callable[[bytes], None]:
    """Make the target of a format of annotations; `name` is its file."""

    def fuzz(data: bytes) -> None:
        place = folder() / kind
        for inner in ("x", "ann"):
            (place / inner).mkdir(parents=True, exist_ok=True)
        for path in (place / "a.png", place / "x" / "a.png"):
            Image.new("RGB", (8, 6)).save(path)
        Image.new("L", (8, 6)).save(place / "grey.png")
        (place / name).write_bytes(data)
        (place / "classes.csv").write_bytes(data if kind == "colors" else b"a\nb\n")
        given: dict[str, object] = {"images": place}
        if kind == "pairs":
            given = {}
        elif kind == "colors":
            Image.new("RGB", (8, 6), (1, 2, 3)).save(place / "ann/a.png")
            given = {"images": place / "x", "classes": place / "classes.csv"}
        with suppress(Explained):
            find_format(place)
        inputs = {"colors": place / "ann", "supervisely": place, "yolo": place}
        source = FORMATS[kind].read(inputs.get(kind, place / name), given)
        for item in source.items[:20]:
            item.mask()

    return fuzz


def fuzz_sweep(data: bytes) -> None:
    """The description of a sweep, beside the configuration of its runs."""
    from sceneparse.studies.sweep.plan import read_plan  # noqa: PLC0415 - needs the extra "sweep"

    (folder() / "base.yaml").write_text("data: {holdout: 10}\n")
    read_plan(written("sweep.yaml", data), (), None)


def fuzz_video(data: bytes) -> None:
    """The bytes of a video."""
    reader = VideoReader(written("x.mp4", data))
    for frame in reader.frames(5):
        assert frame.ndim == 3
    reader.require_all(5)


def fuzz_arrays(data: bytes) -> None:
    """The counts of an evaluation."""
    read_arrays(written("x.npz", data))


@dataclass
class Target:
    """A function of bytes, valid inputs, and what makes bytes fit to be one again."""

    fuzz: Callable[[bytes], None]
    make_seeds: Callable[[], list[bytes]]
    repair: Callable[[bytes], bytes] = bytes
    restructure: Callable[[bytes, random.Random], bytes] | None = None

    @cached_property
    def seeds(self) -> list[bytes]:
        """Valid inputs, before they are repaired."""
        return self.make_seeds()

    def draw(self, dice: random.Random) -> bytes:
        """Make an input out of a valid one; now and then out of nothing."""
        if dice.random() < 0.01:
            return self.repair(dice.randbytes(dice.randrange(200)))
        return self.repair(self.changed(dice.choice(self.seeds), dice))

    def changed(self, data: bytes, dice: random.Random) -> bytes:
        """Change an input in a few places."""
        if self.restructure is not None and dice.random() < 0.7:
            # What was changed before may have no structure any more.
            with suppress(ValueError, RecursionError, TypeError, yaml.YAMLError, struct.error):
                return self.restructure(data, dice)
        return mutated(data, self.seeds, dice)


TARGETS = {
    "image": Target(fuzz_image, seeds.images, with_checksums),
    "image_as_is": Target(fuzz_image, seeds.images),
    "mask": Target(fuzz_mask, seeds.masks, with_checksums),
    "config": Target(fuzz_config(SegConfig), lambda: [seeds.CONFIG], restructure=changed_yaml),
    "config_cls": Target(fuzz_config(ClsConfig), lambda: [seeds.CLASSES], restructure=changed_yaml),
    "description": Target(
        fuzz_description, lambda: seeds.json_bytes(seeds.META), restructure=changed_json
    ),
    "safetensors": Target(
        fuzz_safetensors, lambda: [save(seeds.weights())], restructure=changed_header
    ),
    "pickle": Target(fuzz_pickle, seeds.pickles, zipped("archive/data.pkl")),
    "weights": Target(fuzz_pickle, seeds.saved_files),
    "list": Target(fuzz_list, lambda: seeds.LISTS, restructure=changed_lines),
    "instances": Target(
        fuzz_annotations("coco-instances", "x.json"),
        lambda: seeds.json_bytes(seeds.COCO),
        restructure=changed_json,
    ),
    "panoptic": Target(
        fuzz_annotations("coco-panoptic", "x.json"),
        lambda: seeds.json_bytes(seeds.PANOPTIC),
        restructure=changed_json,
    ),
    "labelme": Target(
        fuzz_annotations("labelme", "x.json"),
        lambda: seeds.json_bytes(seeds.LABELME),
        restructure=changed_json,
    ),
    "via": Target(
        fuzz_annotations("via", "x.json"),
        lambda: [*seeds.json_bytes(seeds.VIA), *seeds.json_bytes(seeds.VIA_PROJECT)],
        restructure=changed_json,
    ),
    "via_table": Target(
        fuzz_annotations("via", "x.csv"), lambda: [seeds.VIA_TABLE], restructure=changed_csv
    ),
    "label_studio": Target(
        fuzz_annotations("label-studio", "x.json"),
        lambda: [*seeds.json_bytes(seeds.STUDIO), *seeds.json_bytes(seeds.STUDIO_MIN)],
        restructure=changed_json,
    ),
    "pairs": Target(
        fuzz_annotations("pairs", "x.csv"),
        lambda: [b"image,mask\na.png,grey.png\n"],
        restructure=changed_csv,
    ),
    "colors": Target(
        fuzz_annotations("colors", "x.csv"),
        lambda: [b"name,r,g,b\nroad,1,2,3\nvoid,0,0,0\n"],
        restructure=changed_csv,
    ),
    "cvat": Target(fuzz_annotations("cvat", "x.xml"), lambda: [seeds.CVAT]),
    "supervisely": Target(
        fuzz_annotations("supervisely", "ann/a.png.json"),
        lambda: seeds.json_bytes(seeds.SUPERVISELY),
        restructure=changed_json,
    ),
    "yolo": Target(
        fuzz_annotations("yolo", "a.txt"),
        lambda: [b"0 0.1 0.1 0.9 0.2 0.5 0.8\n1 0.5 0.5 0.1 0.1\n"],
        restructure=changed_lines,
    ),
    "sweep": Target(fuzz_sweep, lambda: [seeds.SWEEP], restructure=changed_yaml),
    "arrays": Target(fuzz_arrays, seeds.arrays, zipped("by_image.npy")),
    "video": Target(fuzz_video, seeds.videos),
}
