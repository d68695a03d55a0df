"""Classification datasets, held in memory whole: class folders (SPLIT/CLASS/IMAGE) and CIFAR."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from sceneparse.data.decoding import MAX_IMAGE_PIXELS
from sceneparse.data.labels import require_name
from sceneparse.data.pairing import describe_skipped, find_images, is_hidden
from sceneparse.data.reading import read_all, read_image
from sceneparse.data.resizing import resize_image
from sceneparse.errors import InputError, first_few, reason_of, refusing, unknown_name
from sceneparse.files import inside

logger = logging.getLogger(__name__)

Color = tuple[float, float, float]


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 (N, 3, H, W), class numbers int64 (N,), and the names of the classes."""

    images: Tensor
    targets: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: NDArray[np.int64]) -> LabelledImages:
        """Return some of the images, in this order."""
        chosen = torch.from_numpy(indices)
        return LabelledImages(self.images[chosen], self.targets[chosen], self.classes)

    def statistics(self) -> tuple[Color, Color]:
        """Compute RGB mean and standard deviation over all pixels, in 0..1."""
        planes = self.images.unbind(1)
        counts = [torch.bincount(plane.reshape(-1), minlength=256) for plane in planes]
        histograms = torch.stack(counts).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        shares = histograms / histograms.sum(dim=1, keepdim=True)
        mean = shares @ values
        std = (shares @ values.square() - mean.square()).sqrt()
        return _color(mean), _color(std)


def load_classes(dataset: str, root: str | Path, split: str, size: int = 32) -> LabelledImages:
    """Read a split ("train" or "test") of cifar10, cifar100 or a folder of class folders.

    CIFAR is stored as torchvision stores it (cifar-10-batches-py below root). If it is missing, it
    is downloaded; its checksums are compared. A folder holds SPLIT/CLASS/IMAGE; the short side of
    its images is scaled to `size`, and the middle is cropped. Raises InputError.
    """
    root = Path(root)
    if dataset == "folder":
        return _read_folder(inside(root, split, "the split"), size)
    if dataset not in _CIFAR:
        raise unknown_name("dataset", dataset, IMAGE_DATASETS)
    kind = _CIFAR[dataset]
    folder = root / kind.base_folder
    # The files are pickles. torchvision opens them only if they have the published MD5 checksums.
    if folder.is_dir():
        _validate_checksums(kind, folder)
    try:
        data = kind(str(root), train=split == "train", download=not folder.is_dir())
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{dataset} is not in '{root}' and could not be downloaded ({reason_of(error)}); "
            f"put {kind.base_folder} there"
        ) from error
    images = torch.from_numpy(np.asarray(data.data)).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(images, torch.tensor(data.targets), list(data.classes))


_CIFAR: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
IMAGE_DATASETS = (*_CIFAR, "folder")


def _validate_checksums(kind: type[CIFAR10], folder: Path) -> None:
    """Raise InputError that names the files whose checksums are not the published ones."""
    meta = kind.meta["filename"], kind.meta["md5"]
    with refusing(folder, "cannot be read"):
        files = [*kind.train_list, *kind.test_list, meta]
        bad = [name for name, checksum in files if not check_integrity(folder / name, checksum)]
    if bad:
        raise InputError(
            f"{folder} is damaged or incomplete ({first_few(bad)}): its checksums are not those of "
            "the original; delete it to have it downloaded again"
        )


def _read_folder(folder: Path, size: int) -> LabelledImages:
    if not folder.is_dir():
        raise InputError(f"folder '{folder}' does not exist; expected SPLIT/CLASS/IMAGE under root")
    found = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
    folders = {normalize("NFC", path.name): path for path in found}
    classes = sorted(folders)
    for name in classes:
        require_name(name)
    if len(classes) < 2:
        raise InputError(f"{folder} must hold a folder for each class, found {first_few(classes)}")
    files = []
    skipped = Counter[str]()
    for number, name in enumerate(classes):
        paths, others = find_images(folders[name])
        files += [(path, number) for path in paths]
        skipped += others
    if skipped:
        logger.info(f"{folder}: skipped {describe_skipped(skipped)}")
    empty = sorted(set(classes) - {classes[number] for _, number in files})
    if empty:
        raise InputError(f"{folder}: {len(empty)} class folders are empty: {first_few(empty)}")
    images = np.stack(read_all(lambda file: _read_square(file[0], size), files, "images"))
    return LabelledImages(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([number for _, number in files]),
        classes,
    )


def _read_square(path: Path, size: int) -> NDArray[np.uint8]:
    """Scale the short side of an image to `size` and crop the middle: (size, size, 3)."""
    image = read_image(path)
    height, width = image.shape[:2]
    factor = size / min(height, width)
    new = max(round(height * factor), size), max(round(width * factor), size)
    if new[0] * new[1] > MAX_IMAGE_PIXELS:
        raise InputError(f"{path}: {width}x{height} is too long for a square of {size}")
    scaled = resize_image(image, new)
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    return np.ascontiguousarray(scaled[top : top + size, left : left + size])


def _color(values: Tensor) -> Color:
    red, green, blue = (round(value, 4) for value in values.tolist())
    return red, green, blue


def split_off(
    data: LabelledImages, count: int, seed: int, setting: str
) -> tuple[LabelledImages, LabelledImages]:
    """Split off `count` random images, with about the same share of each class.

    Returns the remaining images and those split off. Raises InputError that names `setting` if
    either would be empty.
    """
    if not 0 < count < len(data):
        raise InputError(f"{setting} must be in 1..{len(data) - 1}, got {count}")
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(data))
    targets = data.targets.numpy()
    # The place of each image within its class, as a share: the first `count` of all are held out.
    place = np.empty(len(data))
    for number in range(len(data.classes)):
        members = shuffled[targets[shuffled] == number]
        place[members] = (np.arange(len(members)) + generator.random()) / max(len(members), 1)
    order = np.argsort(place, kind="stable")
    return data.subset(np.sort(order[count:])), data.subset(np.sort(order[:count]))
