"""Published ResNet classifiers: converted, evaluated and fine-tuned by the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import sceneparse
from sceneparse.cli import classify as classify_command
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import weights as weights_command
from sceneparse.models.published_resnets import CIFAR_STATISTICS, IMAGENET_STATISTICS
from tests.test_train_seg import call


def published(model: torch.nn.Module, classifier: str, shortcut: str) -> dict[str, Tensor]:
    """Return the weights of a network of ours under the names that public code has.

    Without counters of batch norms, as in files of before PyTorch 0.4.1.
    """
    return {
        name.replace("backbone.", "")
        .replace("classifier.", f"{classifier}.")
        .replace("downsample", shortcut): value
        for name, value in model.state_dict().items()
        if "num_batches_tracked" not in name
    }


@pytest.mark.parametrize(
    ("name", "stem", "classifier", "shortcut", "wrap"),
    [
        ("resnet20", "cifar", "linear", "downsample", "state_dict"),
        ("resnet110", "cifar", "linear", "downsample", "plain"),
        ("resnet18", "cifar", "linear", "shortcut", "net"),
        ("resnet50", "cifar", "fc", "downsample", "plain"),
        ("resnet34", "imagenet", "fc", "downsample", "state_dict"),
    ],
)
def test_every_published_form_is_converted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    stem: str,
    classifier: str,
    shortcut: str,
    wrap: str,
) -> None:
    model = sceneparse.create_classifier(name, 10 if stem == "cifar" else 7, stem=stem).eval()
    state: Any = published(model, classifier, shortcut)
    if wrap == "net":
        state = {"net": {f"module.{key}": value for key, value in state.items()}, "acc": 95.4}
    elif wrap == "state_dict":
        state = {"state_dict": state, "best_prec1": 91.78}
    torch.save(state, tmp_path / "public.th")
    target = tmp_path / "ours.safetensors"
    assert call(weights_command, tmp_path / "public.th", target) == 0
    again = sceneparse.load_model(target)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    is_large_cifar = stem == "cifar" and name in {"resnet18", "resnet50"}
    assert (again.mean, again.std) == (CIFAR_STATISTICS if is_large_cifar else IMAGENET_STATISTICS)
    assert again.meta.get("classes", [""] * 4)[3] == ("cat" if stem == "cifar" else "")
    assert f"model='{name}'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer1.0.extra.weight": torch.ones(1)}, "not a published ResNet classifier: layer1.0.e"),
        ({"linear.weight": torch.ones(10, 32)}, "of another shape: classifier.weight"),
        ({"layer4.0.conv1.weight": torch.ones(1)}, "no ResNet of ours has [3, 3, 3, 1] blocks"),
    ],
)
def test_other_networks_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Tensor], expected: str
) -> None:
    state = published(sceneparse.create_classifier("resnet20"), "linear", "downsample")
    torch.save({**state, **change}, tmp_path / "public.th")
    assert call(weights_command, tmp_path / "public.th", tmp_path / "ours.safetensors") == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "ours.safetensors").exists()


def test_colors_can_be_given_and_commands_read_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = sceneparse.create_classifier("resnet20", 3).eval()
    torch.save(published(model, "linear", "downsample"), tmp_path / "public.th")
    target = tmp_path / "ours.safetensors"
    options = ("--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5)
    assert call(weights_command, tmp_path / "public.th", target, *options) == 0
    right = 0
    for split in ("train", "test"):
        for number in range(12):
            pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8)
            with torch.no_grad():
                scaled = pixels.permute(2, 0, 1)[None] / 127.5 - 1
                found = int(model(scaled).argmax())
            path = tmp_path / f"data/{split}/{'abc'[number % 3]}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(path)
            right += split == "test" and found == number % 3
    capsys.readouterr()
    arguments = (target, "--data", tmp_path / "data")
    assert call(evaluate_command, *arguments, "--debug") == 0
    assert f"accuracy     {right / 12:.4f}" in capsys.readouterr().out
    assert call(evaluate_command, *arguments, "--boundary") == 2
    assert "--boundary has no effect on a classifier" in capsys.readouterr().err
    assert call(evaluate_command, *arguments, "--input-size", "32", "32") == 2
    assert "--input-size has no effect on a classifier" in capsys.readouterr().err

    settings = [f"data.root={tmp_path / 'data'}", "data.dataset=folder", "model=resnet20"]
    settings += [f"pretrained={target}", f"output={tmp_path / 'run'}", "train.epochs=1"]
    settings += ["train.batch_size=4", "optim.lr=1e-9", "optim.milestones=[]"]
    assert call(classify_command, "--config", "cifar10_resnet18", *settings) == 0
    said = capsys.readouterr()
    told = said.out + said.err
    assert "taken 97 of 97 tensors\n" in told.replace("\r", "")
    assert "images are normalised with mean [0.5, 0.5, 0.5]" in told
