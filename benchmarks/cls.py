"""Measure the input of a CIFAR classifier: crops on the device against torchvision in workers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.rows import Row, compare
from sceneparse.data.device_loader import DeviceLoader
from sceneparse.data.image_folders import LabelledImages
from sceneparse.inference.normalization import Normalization
from sceneparse.models.classification import create_classifier

_IMAGES, _BATCH, _WORKERS = 50_000, 128, 2
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_BATCHES = 100


def measure() -> list[Row]:
    """Time 100 batches of 128, and training steps of ResNet-18 with and without loading."""
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, 32, 32, 3), dtype=np.uint8)
    ours, theirs = _our_batches(pixels), _torchvision(pixels)
    rows = [
        compare(
            "cls_input_vs_torchvision",
            lambda: _take(ours),
            lambda: _take(theirs),
            repeats=5,
            pause=1.0,  # until the workers have read ahead
        )
    ]
    step = _training_step()
    images, targets = next(ours)
    rows.append(
        compare("cls_step_vs_constant", lambda: step(*next(ours)), lambda: step(images, targets))
    )
    return rows


def _take(batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    for _ in range(_BATCHES):
        next(batches)


def _our_batches(pixels: np.ndarray[Any, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    data = LabelledImages(images, torch.zeros(len(images)).long(), ["a", "b"])
    loader, normalize = DeviceLoader(data, _BATCH), Normalization(_MEAN, _STD)
    epoch = 0
    while True:
        loader.start_at(epoch, 0)
        for batch in loader:
            yield normalize(batch.images), batch.targets
        epoch += 1


class _Pictures(Dataset[tuple[Tensor, int]]):
    """CIFAR as in torchvision: an array, converted to a picture, then transformed."""

    def __init__(self, pixels: np.ndarray[Any, Any]) -> None:
        self.pixels = pixels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(_MEAN, _STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), 0


def _torchvision(pixels: np.ndarray[Any, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = DataLoader(_Pictures(pixels), _BATCH, shuffle=True, num_workers=_WORKERS)
        while True:
            yield from loader


def _training_step() -> Callable[[Tensor, Tensor], None]:
    model = create_classifier("resnet18", 10).to(memory_format=torch.channels_last)
    # The weights stay: trained on noise, they would become denormal and slow.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def step(images: Tensor, targets: Tensor) -> None:
        placed = images.contiguous(memory_format=torch.channels_last)
        functional.cross_entropy(model(placed), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
