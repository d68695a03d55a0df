"""timm backbones: which sizes they take, and that all protocols, training and files follow."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import predict as predict_command
from sceneparse.cli import train as train_command
from sceneparse.cli.command import run
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError
from sceneparse.export import export_onnx, export_pt2
from sceneparse.export.graph import ExportedGraph
from sceneparse.inference.protocols import PROTOCOLS, create_protocol
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.models.timm_backbone import TimmBackbone
from tests.backbones import (
    BACKBONES,
    PAGE,
    SIZE,
    create,
    page_table,
    read_outcomes,
    try_backbone,
    with_table,
)

# A network that needs multiples, one of a fixed size, one with a smallest size, a transformer.
QUICK = {"dla46_c", "efficientformerv2_s0", "legacy_xception", "vit_tiny_patch16_224"}


@pytest.fixture(scope="module")
def odd_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose sides no stride divides."""
    root = tmp_path_factory.mktemp("odd")
    write_dataset(root, {"train": 2, "val": 1}, size=SIZE)
    return root


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BACKBONES.values()],
)
def test_backbone_does_what_the_page_says(name: str, odd_scenes: Path) -> None:
    recorded = {outcome.backbone: outcome for outcome in read_outcomes()}
    assert try_backbone(name, odd_scenes) == recorded[name], "run python -m tests.backbones"


def test_page_shows_all_backbones() -> None:
    outcomes = read_outcomes()
    assert [outcome.backbone for outcome in outcomes] == list(BACKBONES.values())
    assert len(BACKBONES) >= 60
    assert not [outcome for outcome in outcomes if "FAILED" in outcome.refused]
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text, page_table(outcomes)) == text, "run python -m tests.backbones"


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("test_mambaout", (64, 96), (16, 32, 48, 64)),
        ("swin_tiny_patch4_window7_224", (384, 96), (96, 192, 384, 768)),
    ],
)
def test_maps_with_channels_last_are_recognised_at_any_size(
    name: str, size: tuple[int, int], channels: tuple[int, ...]
) -> None:
    # At this height, the first map is as high as it has channels.
    with torch.device("meta"):
        backbone = TimmBackbone(name, output_stride=32).eval()
        maps = backbone(torch.empty(1, 3, *size))
    assert [tuple(x.shape) for x in maps] == [
        (1, width, size[0] // stride, size[1] // stride)
        for width, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("mobilenetv2_035", 8), ("mobilenetv2_035", 16), ("vgg11", 32), ("legacy_xception", 32)],
)
def test_strides_are_those_of_the_maps(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(name, output_stride=output_stride).eval()
        maps = backbone(torch.empty(1, 3, 512, 512))
    assert [round(512 / x.shape[2]) for x in maps] == list(backbone.strides)


def test_swin_of_any_size_equals_timm_at_its_own() -> None:
    name = "swin_tiny_patch4_window7_224"
    theirs = timm.create_model(name, features_only=True).eval()
    ours = TimmBackbone(name, output_stride=32).eval()
    ours.features.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        for found, expected in zip(ours(images), theirs(images), strict=True):
            torch.testing.assert_close(found, expected.permute(0, 3, 1, 2))


class Strict(nn.Module):
    """A backbone that fails at sizes that are no multiples of 32, as hrnet does."""

    channels, output_stride, size_multiple = (5,) * 4, 8, 32

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 9, stride=8, padding=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        assert x.shape[-2] % 32 == x.shape[-1] % 32 == 0, x.shape
        return [self.conv(x)]


class Last(nn.Module):
    """A head that returns the last map."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1]


@pytest.fixture
def strict() -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(Strict(), Last()).eval()


def enlarged(model: SegmentationModel, images: Tensor) -> Tensor:
    """Extend images to multiples of 32, and return their logits at each pixel."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 32, 0, -height % 32))
    logits = model(padded, upsample=False)["out"]
    logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=True)
    return logits[..., :height, :width]


@torch.no_grad()
@pytest.mark.parametrize("name", ["whole", "mmseg_whole"])
@pytest.mark.parametrize("size", [(97, 161), (96, 160), (7, 33)])
def test_whole_images_are_extended_and_the_scores_cut(
    strict: SegmentationModel, name: str, size: tuple[int, int]
) -> None:
    images = torch.randn(2, 3, *size)
    found = create_protocol(name)(strict, images) if name == "whole" else None
    if found is None:  # scales pixels, so it takes bytes
        pixels = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
        images = pixels.float() / 99
        found = create_protocol(name)(strict, pixels, lambda x: x.float() / 99)
    expected = enlarged(strict, images).softmax(dim=1)
    torch.testing.assert_close(found.probabilities(), expected)


@torch.no_grad()
@pytest.mark.parametrize("mirror", [False, True])
def test_windows_are_extended_by_what_lies_beside_them(
    strict: SegmentationModel, mirror: bool
) -> None:
    image = torch.randn(1, 3, 97, 161)
    found = create_protocol("slide", crop=(50, 60), mirror=mirror)(strict, image)
    # Windows of 50x60, at most two thirds of this apart, are seen in 64x64.
    padded = F.pad(image, (0, 4, 0, 14))
    total, count = torch.zeros(1, 5, 97, 161), torch.zeros(97, 161)
    for top in (0, 34, 47):
        for left in (0, 40, 80, 101):
            part = padded[..., top : top + 64, left : left + 64]
            for flip in (False, True)[: 1 + mirror]:
                logits = enlarged(strict, part.flip(-1) if flip else part)
                logits = logits.flip(-1) if flip else logits
                total[..., top : top + 50, left : left + 60] += logits.softmax(1)[..., :50, :60]
                count[top : top + 50, left : left + 60] += 1
    torch.testing.assert_close(found.probabilities(), total / count)


def test_sizes_that_do_not_fit_are_named_with_those_that_do(strict: SegmentationModel) -> None:
    with pytest.raises(InputError, match=r"image of 97x161 .* of 32: use 96x160 or 128"):
        strict(torch.rand(1, 3, 97, 161))
    strict.min_size = 96
    assert strict.fitting_size(40, 100) == (96, 128)
    strict.max_size = 128
    assert strict.fitting_size(97, 128) == (128, 128)
    for protocol in PROTOCOLS:
        images = torch.zeros(1, 3, 60, 129, dtype=torch.uint8)
        chosen = create_protocol(protocol, crop=(64, 64))
        if chosen.crop is None:
            with pytest.raises(InputError, match="128x128 at most, got 60x129"):
                chosen(strict, images, Tensor.float)


@torch.no_grad()
def test_exported_labels_are_those_of_the_protocol() -> None:
    model = create("dla46_c", 32).eval()
    model.meta |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    images = torch.randn(1, 3, *SIZE)
    labels = create_protocol("whole")(model, images).labels()
    found = ExportedGraph(model, normalize=False, argmax=True)(images)
    assert (found == labels).float().mean() > 0.999  # up to rounding by folded norms


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("size must be 4")


def hang(*_: object, **__: object) -> None:
    while True:
        with suppress(Exception):  # torch catches errors and tries other ways
            sum(range(1000))


@pytest.mark.parametrize(
    ("export", "behave", "reason"),
    [
        (export_onnx, fail, "size must be 4"),
        (export_pt2, fail, "size must be 4"),
        (export_onnx, hang, "tracing took more than 0.2 s"),
        (export_pt2, hang, "tracing took more than 0.2 s"),
    ],
)
def test_a_graph_of_any_size_that_torch_cannot_make_names_the_remedy(
    export: Any, behave: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create("dla46_c", 32).eval()
    model.meta |= {"mean": [0.5] * 3, "std": [0.25] * 3, "classes": ["a"], "colors": [[0, 0, 0]]}
    monkeypatch.setattr("torch.onnx.export", behave)
    monkeypatch.setattr("torch.export.export", behave)
    monkeypatch.setattr("sceneparse.export.files._MAX_TRACING", 0.2)
    with pytest.raises(InputError, match=rf"any size \({reason}\); give .* --fixed H W"):
        export(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def call(tool: Any, *arguments: object) -> int:
    """Run a tool in this process and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        run(tool.parser(), tool.main, [str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_training_refuses_before_the_first_step_and_else_works_to_the_end(
    odd_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = [f"data.root={odd_scenes}", f"output={out}", "data.workers=0", "train.epochs=1"]
    settings += ["train.batch_size=2", "model.output_stride=32", "model.width=8"]
    quick = ["--config", "quickstart", *settings]

    def refusal(*more: str) -> str:
        assert call(train_command, *quick, *more) == 2
        assert not out.exists()
        error = capsys.readouterr().err
        return error[error.index("error: ") :].removeprefix("error: ").strip()

    backbone = "model.backbone=dla46_c"
    assert refusal(backbone, "augment.crop=[97,161]") == (
        "augment.crop 97x161 does not fit the network, which takes multiples of 32: "
        "use 96x160 or 128x192"
    )
    assert "set model.output_stride: 32" in refusal(backbone, "model.output_stride=8")
    fixed = ("model.backbone=test_coatnet", "augment.crop=[160,160]")  # takes 160x160 only
    assert refusal(*fixed).startswith(
        "the network cannot evaluate images of 97x161 with eval.protocol: whole (the network takes "
        "images of 160x160 at most, got 97x161; use crops and windows (protocol slide) of 160x160"
    )
    assert call(train_command, *quick, backbone, "augment.crop=[96,160]") == 0
    assert call(evaluate_command, out, "--workers", 0, "--protocol", "slide", "--crop", 50, 60) == 0
    images = odd_scenes / "val" / "images"
    assert call(predict_command, out, images, "--output", tmp_path / "predicted") == 0
    assert list((tmp_path / "predicted").rglob("*.png"))
