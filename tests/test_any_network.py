"""Networks of other libraries: their scores equal those that are computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import sceneparse
from sceneparse.cli import evaluate as command
from sceneparse.data.datasets import SegmentationDataset, create_dataset
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError
from sceneparse.inference.any_network import IMAGENET_MEAN, IMAGENET_STD
from sceneparse.metrics.confusion import scores_from_counts

CLASSES = 9


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scenes")
    write_dataset(place, {"val": 3}, seed=0)
    return place


@pytest.fixture(scope="module")
def scenes(root: Path) -> SegmentationDataset:
    return create_dataset("folder", root, "val")


def torchvision_net() -> nn.Module:
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)


def smp_net() -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model: nn.Module = smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)
    return model


def transformers_net() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16, "depths": [1, 1, 1, 1]}
    config = transformers.SegformerConfig(num_labels=CLASSES, **sizes)
    model: nn.Module = transformers.SegformerForSemanticSegmentation(config)
    return model


# Its logits in what it returns.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "torchvision": (torchvision_net, lambda found: found["out"]),
    "smp": (smp_net, lambda found: found),
    "transformers": (transformers_net, lambda found: found.logits),
}


def normalised(image: np.ndarray[Any, Any]) -> Tensor:
    pixels = torch.tensor(image).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])[..., None, None]
    return (pixels - mean) / std


@torch.inference_mode()
def counted(
    scenes: SegmentationDataset, labels_of: Callable[[Tensor, tuple[int, int]], Tensor]
) -> Any:
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for image, mask, _ in scenes:
        labels = labels_of(normalised(image), image.shape[:2]).numpy()
        np.add.at(counts, (mask[mask != 255], labels[mask != 255]), 1)
    return scores_from_counts(counts).mean_iou


@pytest.mark.parametrize("library", NETWORKS)
def test_networks_of_other_libraries_score_as_they_are(
    scenes: SegmentationDataset, library: str
) -> None:
    torch.manual_seed(0)
    build, logits_in = NETWORKS[library]
    network = build().eval()

    def labels_of(pixels: Tensor, size: Any) -> Tensor:
        logits = logits_in(network(pixels))
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].argmax(0)

    found = sceneparse.evaluate(network, scenes, device="cpu", workers=0)
    assert found.scores.mean_iou == pytest.approx(counted(scenes, labels_of), abs=2e-4)


def test_functions_may_give_labels_as_arrays(
    root: Path, scenes: SegmentationDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / "data").symlink_to(root)

    def darkest(pixels: Tensor) -> np.ndarray[Any, Any]:
        return (pixels.mean(dim=1) > 0).long().numpy()

    data = sceneparse.create_dataset("folder", "~/data", "val")
    found = sceneparse.evaluate(darkest, data, workers=0, output="~/scores")
    assert found.scores.mean_iou == counted(scenes, lambda p, _: (p.mean(dim=1) > 0).long()[0])
    assert (tmp_path / "scores/eval.json").is_file()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (lambda p: p.new_zeros(len(p), 4, 8, 8), "gives 4 classes, but 9 are named"),
        (lambda p: p.mean(dim=1).long() + 99, "labels outside 0..8"),
        (lambda p: {"masks": p}, "a mapping of masks"),
        (lambda p: p.mean(), "must give logits"),
    ],
)
def test_other_outputs_are_refused(scenes: SegmentationDataset, output: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sceneparse.evaluate(output, scenes, workers=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"std": (0, 0, 0)}, "those of std above 0"),
        ({"mean": (0.5,)}, "3 numbers each"),
        ({"multiple": 0}, "must be 1 or more"),
        ({"exclude": ["cow"]}, "no class 'cow'"),
        ({"rule": "best"}, "rule must be one of"),
    ],
)
def test_wrong_settings_are_refused(
    scenes: SegmentationDataset, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        sceneparse.evaluate(lambda p: p.new_zeros(len(p), CLASSES, 2, 2), scenes, **settings)


class Fixed(nn.Module):
    """A network of images of 64x96 only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, CLASSES, 3, stride=4, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


def test_onnx_files_of_other_programs_are_evaluated(
    root: Path, scenes: SegmentationDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network = Fixed().eval()
    path = tmp_path / "other.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 64, 96),), str(path), dynamo=False)

    def run(*options: str) -> None:
        given = [str(path), "--data", str(root), "--split", "val", *options]
        command.main(command.parser().parse_args(given))

    with pytest.raises(InputError, match="--mean R G B --std R G B"):
        run()
    taken = ("--input-size", "64", "96", "--mean", "0", "0", "0", "--std", "1", "1", "1")
    run(*taken, "--output", str(tmp_path / "scores"))
    run(*taken)
    for folder in (tmp_path / "scores", next(tmp_path.glob("eval_val_other_onnx*"))):
        assert (folder / "eval.json").is_file()
    predict = nn.Sequential(nn.Upsample((64, 96), mode="bilinear"), network)
    found = sceneparse.evaluate(predict, scenes, mean=(0,) * 3, std=(1,) * 3, workers=0)
    assert f"{found.scores.mean_iou:.4f}" in capsys.readouterr().out
