"""Measure augmentation at Cityscapes' size against the conventional chain and albumentations.

The conventional chain resizes the whole image, rotates the whole image, blurs it, mirrors it and
crops, as the published code of SPNet and its relatives do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from benchmarks.rows import Row, compare
from sceneparse.data.cache import MemoryCache
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.data.labels import identity_table
from sceneparse.data.pairing import Pair
from sceneparse.data.reading import read_image, read_mask
from sceneparse.data.synthetic import CLASSES, render_scene
from sceneparse.data.transforms import apply_seeded, training_transform

_SIZE = (1024, 2048)
_CROP = 768
_SCALE = (0.5, 1.75)
_DEGREES = 10.0
_FILL = (124, 116, 104)
_IGNORE = 255
_SAMPLES = 12
_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)

Picture = NDArray[np.uint8]


def measure() -> list[Row]:
    """Run all comparisons on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    image, mask = render_scene(*_SIZE, seed=0, index=0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = _write(Path(folder), image, mask)
            return [*_decoding(paths), *_pipelines(image, mask, paths)]
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(-1)


def _write(folder: Path, image: Picture, mask: Picture) -> dict[str, Path]:
    paths = {name: folder / name for name in ("image.png", "image.jpg", "mask.png")}
    Image.fromarray(image).save(paths["image.png"])
    Image.fromarray(image).save(paths["image.jpg"], quality=95)
    Image.fromarray(mask).save(paths["mask.png"])
    return paths


def _decoding(paths: dict[str, Path]) -> list[Row]:
    """Compare strict reading with OpenCV and Pillow, which accept damaged files."""
    return [
        compare(f"read_{kind}_vs_{other}", partial(read_image, path), partial(read, path))
        for kind, path in (("png", paths["image.png"]), ("jpg", paths["image.jpg"]))
        for other, read in (("opencv", _read_with_opencv), ("pillow", _read_with_pillow))
    ]


def _read_with_opencv(path: Path) -> Any:  # noqa: ANN401 - OpenCV's
    decoded: Any = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _read_with_pillow(path: Path) -> Any:  # noqa: ANN401
    return np.asarray(Image.open(path).convert("RGB"))


def _pipelines(image: Picture, mask: Picture, paths: dict[str, Path]) -> list[Row]:
    ours, plain = _our_pipeline(), _albumentations_pipeline()
    png, label = paths["image.png"], paths["mask.png"]

    def read() -> tuple[Any, Any]:
        return read_image(png), read_mask(label)

    def read_conventionally() -> tuple[Any, Any]:
        return _read_with_pillow(png), np.asarray(Image.open(label))

    table = identity_table(list(CLASSES), list(CLASSES.values()))
    cached = MemoryCache(SegmentationDataset([Pair(png, label, "scene")], table))

    def many(one: Callable[[int], object]) -> Callable[[], None]:
        def run() -> None:
            for seed in range(_SAMPLES):
                one(seed)

        return run

    return [
        compare(
            "augment_vs_conventional",
            many(lambda seed: ours(image, mask, seed)),
            many(lambda seed: _conventional(image, mask, seed)),
        ),
        compare(
            "augment_vs_albumentations",
            many(lambda seed: ours(image, mask, seed)),
            many(lambda seed: plain(image, mask, seed)),
        ),
        compare(
            "sample_vs_conventional",
            many(lambda seed: ours(*read(), seed)),
            many(lambda seed: _conventional(*read_conventionally(), seed)),
        ),
        compare(
            "cached_sample_vs_conventional",
            many(lambda seed: ours(*cached[0][:2], seed)),
            many(lambda seed: _conventional(*read_conventionally(), seed)),
        ),
    ]


def _our_pipeline() -> Callable[[Picture, Picture, int], Any]:
    transform = training_transform(
        crop=(_CROP, _CROP),
        scale=_SCALE,
        rotate=_DEGREES,
        flip=0.5,
        blur=0.5,
        color_jitter=0.0,
        fill=_FILL,
        ignore_index=_IGNORE,
    )

    def apply(image: Picture, mask: Picture, seed: int) -> Any:  # noqa: ANN401
        changed, labels = apply_seeded(transform, image, mask, (seed,))
        return _normalise(changed), labels

    return apply


def _normalise(image: Any) -> torch.Tensor:  # noqa: ANN401 - array or Pillow image
    """Convert to a float tensor in 0..1, then normalize by mean and deviation, as torchvision."""
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return values.sub_(_MEAN).div_(_STD)


def _conventional(image: Picture, mask: Picture, seed: int) -> Any:  # noqa: ANN401
    """Resize, rotate, blur and mirror the whole image, pad and crop it, with Pillow."""
    generator = np.random.default_rng(seed)
    scale = generator.uniform(*_SCALE)
    size = round(_SIZE[1] * scale), round(_SIZE[0] * scale)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    labels = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    if generator.random() < 0.5:
        angle = generator.uniform(-_DEGREES, _DEGREES)
        picture = picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_FILL)
        labels = labels.rotate(angle, Image.Resampling.NEAREST, fillcolor=_IGNORE)
    if generator.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(1.1))
    if generator.random() < 0.5:
        picture, labels = ImageOps.mirror(picture), ImageOps.mirror(labels)
    wide, high = max(_CROP - size[0], 0), max(_CROP - size[1], 0)
    if wide or high:
        picture = ImageOps.expand(picture, (0, 0, wide, high), fill=_FILL)
        labels = ImageOps.expand(labels, (0, 0, wide, high), fill=_IGNORE)
    left = int(generator.integers(0, picture.width - _CROP + 1))
    top = int(generator.integers(0, picture.height - _CROP + 1))
    box = (left, top, left + _CROP, top + _CROP)
    return _normalise(picture.crop(box)), np.array(labels.crop(box))


def _albumentations_pipeline() -> Callable[[Picture, Picture, int], Any]:
    """Build the same augmentation from albumentations' own transforms."""
    transform = A.Compose(
        [
            A.RandomScale((_SCALE[0] - 1, _SCALE[1] - 1), p=1.0),
            A.Rotate(_DEGREES, fill=_FILL, fill_mask=_IGNORE, p=0.5),
            A.GaussianBlur((5, 5), sigma_limit=(1.1, 1.1), p=0.5),
            A.HorizontalFlip(p=0.5),
            A.PadIfNeeded(_CROP, _CROP, fill=_FILL, fill_mask=_IGNORE),
            A.RandomCrop(_CROP, _CROP),
        ]
    )

    def apply(image: Picture, mask: Picture, seed: int) -> Any:  # noqa: ANN401
        transform.set_random_seed(seed)
        result = transform(image=image, mask=mask)
        return _normalise(result["image"]), result["mask"]

    return apply
