"""Images with a class each: read strictly, held on the device, cropped as the recipe says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import hflip, pad

from sceneparse.data.device_loader import DeviceLoader, evaluation_batches
from sceneparse.data.image_folders import LabelledImages, load_classes, split_off
from sceneparse.errors import InputError


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 training and 8 test images of two classes that differ in colour."""
    root = tmp_path_factory.mktemp("animals")
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for number, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = random.integers(0, 90, (20 + index, 24, 3), dtype=np.uint8)
                image[..., number] += 120
                Image.fromarray(image).save(folder / f"{index}.png")
    return root


def labelled(count: int, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return LabelledImages(images, torch.arange(count) % 5, list("abcde"))


def test_folder_of_classes(animals: Path) -> None:
    data = load_classes("folder", animals, "train", 16)
    assert data.images.shape == (20, 3, 16, 16)
    assert data.classes == ["cat", "dog"]
    assert data.targets.tolist() == [0] * 10 + [1] * 10
    # a class is its colour
    assert torch.equal(data.images.float().mean(dim=(2, 3))[:, :2].argmax(dim=1), data.targets)


def test_statistics_are_those_of_all_pixels() -> None:
    data = labelled(30)
    pixels = data.images.double().div(255).permute(1, 0, 2, 3).reshape(3, -1)
    mean, std = data.statistics()
    assert mean == pytest.approx(pixels.mean(dim=1).tolist(), abs=1e-4)
    assert std == pytest.approx(pixels.std(dim=1, unbiased=False).tolist(), abs=1e-4)


def test_unusable_data_are_named(animals: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected SPLIT/CLASS/IMAGE"):
        load_classes("folder", animals, "val")
    (tmp_path / "train/cat").mkdir(parents=True)
    with pytest.raises(InputError, match="must hold a folder for each class"):
        load_classes("folder", tmp_path, "train")
    (tmp_path / "train/dog").mkdir()
    (tmp_path / "train/cat/a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="1 class folders are empty: dog"):
        load_classes("folder", tmp_path, "train")
    Image.new("RGB", (9, 9)).save(tmp_path / "train/dog/b.png")
    with pytest.raises(InputError, match=r"^[^ ]*a\.png: not an image file"):
        load_classes("folder", tmp_path, "train")
    with pytest.raises(InputError, match="unknown dataset 'mnist'; choose one of: cifar10"):
        load_classes("mnist", tmp_path, "train")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(b"not it")
    with pytest.raises(
        InputError, match=r"damaged or incomplete \(data_batch_1, .*\): its checksums"
    ):
        load_classes("cifar10", tmp_path, "train")


def test_holding_out_keeps_the_shares_of_classes() -> None:
    data = labelled(100)
    rest, held = split_off(data, 20, 3, "data.holdout")
    assert (len(rest), len(held)) == (80, 20)
    assert torch.bincount(held.targets).tolist() == [4] * 5
    everything = {tuple(image.flatten().tolist()) for image in data.images}
    parts = [{tuple(i.flatten().tolist()) for i in part.images} for part in (rest, held)]
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]
    assert torch.equal(split_off(data, 20, 3, "data.holdout")[1].images, held.images)
    assert not torch.equal(split_off(data, 20, 4, "data.holdout")[1].images, held.images)
    with pytest.raises(InputError, match=r"data\.holdout must be in"):
        split_off(data, 100, 0, "data.holdout")


def test_batches_are_crops_of_padded_images() -> None:
    data = labelled(23)
    loader = DeviceLoader(data, 5, padding=2, seed=1)
    seen = []
    for batch in loader:
        for image, target in zip(batch.images, batch.targets, strict=True):
            matches = [
                index
                for index, original in enumerate(data.images)
                for whole in (pad(original, [2, 2, 2, 2]), hflip(pad(original, [2, 2, 2, 2])))
                for top in range(5)
                for left in range(5)
                if torch.equal(whole[:, top : top + 8, left : left + 8], image)
            ]
            assert matches
            assert data.targets[matches[0]] == target
            seen.append(matches[0])
    assert sorted(seen) == list(range(23))
    assert loader.steps_per_epoch == 5


def test_crops_and_mirroring_are_uniform() -> None:
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    data = LabelledImages(image.repeat(5000, 1, 1, 1), torch.zeros(5000).long(), ["a", "b"])
    (batch,) = DeviceLoader(data, 5000, padding=1)
    # the pixel from (row, column) 3, 3 stands in one of 3x3 places, mirrored or not
    found = (batch.images[:, 0] == 27).nonzero()[:, 1:]
    places, counts = found.unique(dim=0, return_counts=True)
    assert len(places) == 3 * 4  # columns 2, 3, 4 and mirrored 3, 4, 5
    by_row = torch.stack([counts[places[:, 0] == row].sum() for row in (2, 3, 4)]) / 5000
    torch.testing.assert_close(by_row, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    outer = counts[(places[:, 1] == 2) | (places[:, 1] == 5)].sum() / 5000
    assert outer == pytest.approx(1 / 3, abs=0.03)


def test_order_follows_from_seed_and_epoch() -> None:
    def a_pass(seed: int, epoch: int, first: int = 0) -> list[torch.Tensor]:
        loader = DeviceLoader(labelled(23), 5, padding=2, seed=seed)
        loader.start_at(epoch, first)
        return [batch.images for batch in loader]

    whole = a_pass(1, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, a_pass(1, 2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], a_pass(1, 2, 3), strict=True))
    assert not torch.equal(whole[0], a_pass(1, 3)[0])
    assert not torch.equal(whole[0], a_pass(2, 2)[0])


def test_evaluation_batches_hold_each_image_once() -> None:
    data = labelled(23)
    batches = evaluation_batches(data, 10)
    assert [len(batch.targets) for batch in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.images for batch in batches]), data.images)


def test_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"fewer than train\.batch_size 30"):
        DeviceLoader(labelled(23), 30)
