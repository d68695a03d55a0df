"""The real CIFAR-10: official files, damaged ones, published weights, and a net that learns it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_train_cls import CONFIG
from test_train_seg import call
from torchvision.datasets import CIFAR10

from sceneparse.cli import classify as classify_command
from sceneparse.cli import weights as weights_command
from sceneparse.data.device_loader import evaluation_batches
from sceneparse.data.image_folders import LabelledImages, load_classes
from sceneparse.errors import InputError
from sceneparse.inference.normalization import Normalization
from sceneparse.runs.checkpoint import load_model
from sceneparse.runtime.precision import Compute
from sceneparse.training.loop import evaluate_classifier


@pytest.fixture(scope="module")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 in torchvision's layout."""
    root = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, shared / "data/cifar10/unpack.py", root], check=True)
    return root


def test_all_images_are_read(cifar: Path) -> None:
    train, test = (load_classes("cifar10", cifar, split) for split in ("train", "test"))
    assert torch.bincount(train.targets).tolist() == [5000] * 10
    assert torch.bincount(test.targets).tolist() == [1000] * 10
    assert train.classes[3] == "cat"
    # as published with many recipes
    mean, std = train.statistics()
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)


@pytest.mark.parametrize("damage", ["missing", "flipped", "names missing"])
def test_damaged_files_are_refused(
    cifar: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    shutil.copytree(cifar / folder.name, folder, copy_function=os.link)
    path = folder / ("batches.meta" if damage == "names missing" else "data_batch_3")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # the link alone
    if damage == "flipped":
        path.write_bytes(content)
    output = tmp_path / "run"
    assert (
        call(classify_command, "--config", CONFIG, f"data.root={tmp_path}", f"output={output}") == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert f"({path.name}): its checksums are not those of the original" in line
    assert not output.exists()


def test_an_archive_with_another_checksum_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that somebody put there is opened only if it is the published one."""

    def no_network(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    root = tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cifar-10-batches-py/data_batch_1"))
    with pytest.raises(InputError, match=r"could not be downloaded \(Network is unreachable\)"):
        load_classes("cifar10", root, "train")
    assert [path.name for path in root.iterdir()] == [CIFAR10.filename]


@pytest.mark.parametrize(
    ("file", "published", "images", "tolerance"),
    [
        ("resnet20-12fca82f.th", 0.9173, 1000, 0.02),
        ("resnet56-4bfd9763.th", 0.9339, 200, 0.05),
        pytest.param("resnet20-12fca82f.th", 0.9173, 10_000, 1e-6, marks=pytest.mark.slow),
        pytest.param("resnet56-4bfd9763.th", 0.9339, 10_000, 1e-6, marks=pytest.mark.slow),
    ],
)
def test_published_weights_are_as_accurate_as_published(
    cifar: Path,
    shared: Path,
    tmp_path: Path,
    file: str,
    published: float,
    images: int,
    tolerance: float,
) -> None:
    target = tmp_path / "ours.safetensors"
    assert call(weights_command, shared / "data/weights/cifar10_resnet" / file, target) == 0
    model = load_model(target)
    test = load_classes("cifar10", cifar, "test")
    assert model.classes == test.classes
    test = LabelledImages(test.images[:images], test.targets[:images], test.classes)
    with torch.inference_mode():
        _, accuracy = evaluate_classifier(
            model,
            evaluation_batches(test, 1000),
            normalize=Normalization(model.mean, model.std),
            compute=Compute(torch.device("cpu")),
        )
    assert accuracy == pytest.approx(published, abs=tolerance)


@pytest.mark.slow
def test_a_net_learns_512_images_by_heart(cifar: Path, tmp_path: Path) -> None:
    data = load_classes("cifar10", cifar, "train")
    for index in range(512):
        path = tmp_path / f"images/all/{data.classes[data.targets[index]]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[index].permute(1, 2, 0).numpy()).save(path)
    settings = [
        "model=resnet20",
        "attention=strip_pooling",
        "data.dataset=folder",
        f"data.root={tmp_path / 'images'}",
        "data.train_split=all",
        "data.test_split=all",
        "augment.padding=0",
        "augment.mirror=false",
        "train.epochs=25",
        "train.batch_size=32",
        "optim.name=adam",
        "optim.lr=2e-3",
        "optim.weight_decay=0",
        "optim.milestones=[20]",
        f"output={tmp_path / 'run'}",
    ]
    assert call(classify_command, "--config", CONFIG, *settings) == 0
    lines = (tmp_path / "run/seed-0/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["test_accuracy"] > 0.99
