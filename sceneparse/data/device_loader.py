"""Batches of small images without workers: the whole set is on the device and augmented there.

On mps, the set stays on the CPU: an index of overlapping views would copy all of them first.

Random numbers are drawn on the CPU from (seed, epoch) alone, so that every device gives the same
batches bit for bit.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from sceneparse.data.image_folders import LabelledImages
from sceneparse.data.loader import Batch
from sceneparse.errors import InputError


class DeviceLoader:
    """Training batches: random order, random crop after padding with raw zeros, random mirror.

    The CIFAR recipe of He et al. (CVPR 2016, section 4.2); `padding` 0: no crops. The last batch
    of an epoch may be smaller. Yields Batch of images uint8 (B, 3, H, W) and targets (B,) on the
    device, with their indices in the set as names.
    """

    def __init__(
        self,
        data: LabelledImages,
        batch_size: int,
        *,
        padding: int = 4,
        mirror: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size > len(data):
            raise InputError(
                f"{len(data)} training images are fewer than train.batch_size {batch_size}"
            )
        self.batch_size, self.seed = batch_size, seed
        self.steps_per_epoch = -(-len(data) // batch_size)
        self._padding, self._mirror = padding, mirror
        if torch.device(device).type == "mps":
            device = "cpu"
        self._targets = data.targets.to(device)
        padded = F.pad(data.images.to(device), (padding,) * 4)  # zeros
        self._padded = torch.cat([padded, padded.flip(-1)]) if mirror else padded
        self._windows = _windows(self._padded, data.images.shape[-2], data.images.shape[-1])
        self._epoch, self._first_step = 0, 0

    def start_at(self, epoch: int, step: int) -> None:
        """Start the next iteration at this step of this epoch."""
        self._epoch, self._first_step = epoch, step

    def __iter__(self) -> Iterator[Batch]:
        order, windows = self._draw()
        device = self._targets.device
        for step in range(self._first_step, self.steps_per_epoch):
            chosen = slice(step * self.batch_size, (step + 1) * self.batch_size)
            images = self._windows.index_select(0, windows[chosen].to(device, non_blocking=True))
            indices = order[chosen]
            targets = self._targets[indices.to(device, non_blocking=True)]
            yield Batch(images, targets, tuple(map(str, indices.tolist())))

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Draw the order of an epoch (N,) and the window of each of its images (N,)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        size = len(self._targets)
        order = torch.randperm(size, generator=generator)
        mirrored = torch.randint(0, 1 + self._mirror, (size,), generator=generator)
        corners = torch.randint(0, 2 * self._padding + 1, (2, size), generator=generator)
        channels, height, width = self._padded.shape[1:]
        image = mirrored * size + order
        return order, image * (channels * height * width) + corners[0] * width + corners[1]


def _windows(images: Tensor, height: int, width: int) -> Tensor:
    """View all crops of the images, indexed by their first byte: (bytes, 3, height, width).

    One index is several times faster than an index of image, row and column.
    """
    _, channels, rows, columns = images.shape
    last = (channels - 1) * rows * columns + (height - 1) * columns + width - 1
    strides = (1, rows * columns, columns, 1)
    return images.as_strided((images.numel() - last, channels, height, width), strides)


def evaluation_batches(
    data: LabelledImages, batch_size: int, device: torch.device | str = "cpu"
) -> list[Batch]:
    """Return a set as batches in its own order, on the device."""
    images, targets = data.images.to(device), data.targets.to(device)
    pairs = zip(images.split(batch_size), targets.split(batch_size), strict=True)
    return [Batch(*pair, ()) for pair in pairs]
