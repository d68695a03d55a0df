"""Calibrated confidences: risk and coverage, the fitted temperature, pixels without a class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import MakeRun
from PIL import Image
from test_inference import EveryPixel, model_of
from test_train_seg import call
from torch import Tensor
from torch.nn import functional as F

from sceneparse import Predictor, create_classifier
from sceneparse.cli import calibrate as calibrate_command
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import predict as predict_command
from sceneparse.data.datasets import create_dataset
from sceneparse.data.labels import identity_table, load_label_table, palette
from sceneparse.errors import InputError
from sceneparse.evaluation.calibrate import LOGARITHMS, best_temperature, sample_rows
from sceneparse.export import export_onnx, export_safetensors
from sceneparse.inference import predictor as predictor_module
from sceneparse.inference.protocols import create_protocol
from sceneparse.metrics.risk import BINS, THRESHOLDS, RiskCounts
from sceneparse.report.pictures import save_labels
from sceneparse.runs.checkpoint import load_segmentation_model, save_checkpoint


def counted(confidence: Tensor, wrong: Tensor) -> RiskCounts:
    meter = RiskCounts(255)
    targets = torch.zeros_like(wrong, dtype=torch.uint8)
    targets[:, 0] = 255  # not counted
    for image in range(len(wrong)):
        part = slice(image, image + 1)
        meter.update(wrong[part].to(torch.uint8), targets[part], confidence[part])
    return meter


def test_risk_and_coverage_are_those_of_a_count_over_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(2, 20, 30, generator=generator)
    confidence[0, 1, :3] = torch.tensor([1.0, 0.0, 0.5])
    wrong = torch.rand(2, 20, 30, generator=generator) > confidence
    risk = counted(confidence, wrong).curve()
    sure, missed = confidence[:, 1:].flatten().double(), wrong[:, 1:].flatten()
    for row, threshold in enumerate(risk.threshold):
        above = sure >= row / BINS
        assert threshold == row / BINS
        assert risk.coverage[row] == pytest.approx(float(above.double().mean()))
        expected = float(missed[above].double().mean())
        assert risk.error[row] == pytest.approx(expected, nan_ok=True)
    # the mean risk over all numbers of kept pixels, the most confident first
    order = sure.argsort(descending=True)
    errors = missed[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
    assert risk.area == pytest.approx(float(errors.mean()), abs=2e-3)
    table = risk.table()
    assert table["thresholds"] == [0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99]
    assert table["coverage"][THRESHOLDS.index(0.8)] == float((sure >= 0.8).double().mean())


def test_risk_of_no_pixels_is_unknown() -> None:
    risk = RiskCounts(255).curve()
    assert np.isnan([risk.area, risk.error[0], risk.coverage[0]]).all()


@pytest.mark.parametrize("name", ["whole", "slide", "mmseg_slide"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_temperature_divides_logits_under_every_protocol(
    name: str, mirror: bool, scale: float
) -> None:
    # each window and mirror image sees the same logits: the image itself
    image = torch.randn(1, 3, 30, 41, generator=torch.Generator().manual_seed(1)) * scale
    scores = create_protocol(name, crop=(16, 24), mirror=mirror)(model_of(EveryPixel()), image)
    targets = torch.randint(0, 3, (1, 30, 41))
    targets[:, 5:7] = 255
    plain = scores.labels()
    for temperature in (0.05, 1.0, 2.5, 20.0):
        expected = (image / temperature).softmax(dim=1)
        found = scores.at(temperature)
        torch.testing.assert_close(found.probabilities(), expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(found.labels(), plain)
        _, confidence = found.labels_and_confidence()
        torch.testing.assert_close(confidence, expected.amax(dim=1), atol=1e-5, rtol=1e-4)
        if scale > 1 or temperature < 1:  # the probability of a truth can be 0
            continue
        losses, count = scores.losses_at([1.0, temperature], slice(4, 20), targets)
        loss = F.cross_entropy(
            image[:, :, 4:20] / temperature, targets[:, 4:20], ignore_index=255, reduction="sum"
        )
        assert count == 14 * 41
        assert float(losses[1]) == pytest.approx(float(loss), rel=1e-4)


def test_rows_are_spread_over_an_image() -> None:
    random = np.random.default_rng(0)
    assert sample_rows(5, 10, 10**6, random) == [slice(k, k + 1) for k in range(5)]
    (row,) = sample_rows(20, 10, 1, random)
    assert row.stop - row.start == 1
    rows = [k for part in sample_rows(720, 960, 20_000, random) for k in range(720)[part]]
    assert len(set(rows)) == len(rows) == 16
    assert all(any(k in range(90 * part, 90 * part + 90) for k in rows) for part in range(8))


def sharpened(run: Path) -> Path:
    """Make the logits of a run large, so that it is sure of some pixels."""
    model = load_segmentation_model(run)
    model.head.classifier[-1].weight.data.mul_(12)  # type: ignore[union-attr,index]
    save_checkpoint(
        run, step=1, best_step=1, weights=model.state_dict(), training={}, meta=model.meta
    )
    return run


def test_the_lowest_loss_is_found_between_temperatures() -> None:
    found, at_limit = best_temperature((LOGARITHMS - 0.37) ** 2 + 0.1 * (LOGARITHMS - 0.37) ** 4)
    assert found == pytest.approx(np.exp(0.37), rel=1e-3)
    assert not at_limit
    for slope, side in ((-1, "upper"), (1, "lower")):
        found, at_limit = best_temperature(slope * LOGARITHMS)
        assert found == pytest.approx(np.exp(-3 * slope), rel=1e-3)
        assert at_limit and f"at its {side} limit" in calibrate_command.limit_reason(found)


def draw_labels(run: Path, root: Path, split: str, temperature: float, **protocol: Any) -> None:
    """Write masks drawn from what the run predicts at a temperature."""
    predictor = Predictor(run, **protocol)
    random = np.random.default_rng(0)
    for path in sorted((root / split / "images").iterdir()):
        image = np.asarray(Image.open(path))
        scores = predictor.score(image[None]).at(temperature)
        probabilities = scores.probabilities()[0].double().cpu().numpy()
        draws = random.random(image.shape[:2])
        labels = (probabilities.cumsum(axis=0) < draws * probabilities.sum(axis=0)).sum(axis=0)
        labels[:3] = 255
        Image.fromarray(labels.astype(np.uint8)).save(root / split / f"labels/{path.stem}.png")


VIEWS = ("--protocol", "slide", "--mirror", "--scales", "1", "1.5")


@pytest.mark.parametrize(
    ("temperature", "protocol"),
    [(0.6, ("--protocol", "whole")), (1.7, ("--protocol", "whole")), (1.7, VIEWS)],
    ids=["low", "high", "views"],
)
def test_a_known_temperature_is_found(
    make_run: MakeRun, scenes: Path, tmp_path: Path, temperature: float, protocol: tuple[str, ...]
) -> None:
    run, root = sharpened(make_run()), tmp_path / "drawn"
    shutil.copytree(scenes, root)
    views = {"mirror": True, "scales": (1.0, 1.5)} if len(protocol) > 2 else {}
    draw_labels(run, root, "train", temperature, protocol=protocol[1], **views)
    options = ("--data", root, "--split", "train", "--workers", 0, *protocol)
    assert call(calibrate_command, run, *options) == 0
    found = json.loads((run / "calibration.json").read_text())
    assert found["temperature"] == pytest.approx(temperature, rel=0.02)
    assert found["nll"] < found["nll_before"]
    assert found["calibration_error"] < min(0.01, found["calibration_error_before"])
    assert (found["split"], found["images"], found["step"]) == ("train", 12, 1)


@pytest.fixture
def sure(make_run: MakeRun, scenes: Path, tmp_path: Path) -> Path:
    """A run whose validation masks are drawn from its own predictions, at a temperature."""
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    run = sharpened(make_run(root=root))
    draw_labels(run, root, "val", 1.4)
    return run


@pytest.fixture
def calibrated(sure: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert call(calibrate_command, sure, "--workers", 0) == 0
    capsys.readouterr()
    return sure


def test_a_run_that_cannot_be_written_is_refused_before_the_work(
    sure: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("sceneparse.evaluation.calibrate.calibrate", None)  # never called
    assert call(calibrate_command, sure) == 2
    assert f"cannot write '{sure}/calibration.json': Permission" in capsys.readouterr().err


def test_labels_stay_and_confidences_change(calibrated: Path, scenes: Path) -> None:
    image = create_dataset("folder", scenes, "val")[0][0]
    after = Predictor(calibrated)
    temperature = after.calibration["temperature"] if after.calibration else 1
    assert f"float32, temperature {temperature:.3g}" in repr(after)
    (calibrated / "calibration.json").unlink()
    before = Predictor(calibrated)
    assert before.precision == "float32"
    assert np.array_equal(before(image).labels, after(image).labels)
    logits = np.log(before(image).probabilities)
    expected = np.exp(logits / temperature)
    np.testing.assert_allclose(
        after(image).probabilities, expected / expected.sum(axis=0), atol=1e-5
    )


def test_what_is_printed_is_what_is_stored(sure: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = sure
    assert call(calibrate_command, run, "--workers", 0) == 0
    printed = capsys.readouterr().out
    found = json.loads((run / "calibration.json").read_text())
    assert f"temperature  {found['temperature']:.4g}\n" in printed
    assert f"{found['nll_before']:.4f}" in printed
    # the evaluation after it measures the same
    assert call(evaluate_command, run, "--workers", 0, "--report") == 0
    result = json.loads((run / "eval_val/eval.json").read_text())
    assert result["risk_coverage"] == found["risk"]
    assert result["calibration_error"] == found["calibration_error"]
    assert result["how"]["precision"] == f"float32, temperature {found['temperature']:.3g}"
    coverage, error = found["risk"]["coverage"][1], found["risk"]["error"][1]
    assert f"{coverage:.2%} {error:.2%}" in " ".join(printed.partition("\n0.50")[2].split())
    page = (run / "eval_val/report.html").read_text()
    assert f"0.50, which are {coverage:.1%} of all, {error:.2%} are wrong." in page
    # a second calibration starts from the network, not from the first one
    first = (run / "calibration.json").read_bytes()
    assert call(calibrate_command, run, "--workers", 0) == 0
    assert (run / "calibration.json").read_bytes() == first


def threshold_for(run: Path, scenes: Path) -> float:
    """Return a confidence that about half of the pixels have."""
    images = create_dataset("folder", scenes, "val")
    found = [Predictor(run)(images[k][0]).probabilities.max(axis=0) for k in range(2)]
    return round(float(np.median(found)), 3)


def test_unsure_pixels_get_no_class(
    calibrated: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threshold, folder = threshold_for(calibrated, scenes), tmp_path / "photos"
    folder.mkdir()
    for path in sorted((scenes / "val/images").iterdir())[:2]:
        shutil.copy(path, folder)
    output, kinds = tmp_path / "out", ("index", "raw", "color", "overlay")
    options = ("--abstain", threshold, "--output", output, "--save", *kinds)
    assert call(predict_command, calibrated, folder, *options) == 0
    printed, predictor, missing = capsys.readouterr(), Predictor(calibrated), []
    for path in sorted(folder.iterdir()):
        image = np.asarray(Image.open(path))
        result = predictor(image)
        unsure = result.probabilities.max(axis=0) < threshold
        expected = np.where(unsure, 255, result.labels)
        read = {kind: np.asarray(Image.open(output / kind / f"{path.stem}.png")) for kind in kinds}
        assert np.array_equal(read["index"], expected)
        stored = cv2.imread(str(output / "index" / f"{path.stem}.png"))  # as others paint it
        assert np.array_equal(stored[..., ::-1], read["color"])
        assert np.array_equal(read["raw"], expected)
        assert not read["color"][unsure].any()
        assert np.array_equal(read["color"][~unsure], result.color()[~unsure])
        assert np.array_equal(read["overlay"][: len(image)][unsure], image[unsure])
        shares = json.loads((output / "shares.json").read_text())[path.stem]
        assert sum(shares.values()) == pytest.approx(1 - unsure.mean())
        missing.append(unsure.mean())
    assert 0 < np.mean(missing) < 1
    assert f"abstained    {np.mean(missing):.2%} of the pixels" in printed.out
    found = json.loads((calibrated / "calibration.json").read_text())
    errors = np.array(found["risk"]["error"], float)  # NaN above the highest confidence
    error = np.interp(threshold, found["risk"]["thresholds"], errors)
    assert f"expected     {error:.2%} of the other pixels are wrong, as on 5 images" in printed.out
    assert "another protocol" not in printed.out


def test_no_error_is_expected_where_none_was_measured(
    calibrated: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    risk = json.loads((calibrated / "calibration.json").read_text())["risk"]
    pairs = zip(risk["thresholds"], risk["error"], strict=True)
    highest, error = [pair for pair in pairs if pair[1] is not None][-1]
    image = next((scenes / "val/images").iterdir())
    options = (image, "--output", tmp_path / "out", "--abstain", 0.995)
    assert call(predict_command, calibrated, *options) == 0
    printed = capsys.readouterr().out
    assert (
        f"expected     not known; {error:.2%} of those with a confidence of {highest:g} or more "
        "are wrong on 5 images of split val" in printed
    )


def test_another_protocol_and_no_calibration_are_told(
    calibrated: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((scenes / "val/images").iterdir())
    options = (image, "--abstain", 0.3, "--output", tmp_path / "out")
    assert call(predict_command, calibrated, *options, "--protocol", "slide") == 0
    assert "under another protocol (whole: " in capsys.readouterr().out
    (calibrated / "calibration.json").unlink()
    with pytest.warns(UserWarning, match="not calibrated.*run: sceneparse calibrate RUN"):
        assert call(predict_command, calibrated, *options) == 0
    printed = capsys.readouterr().out
    assert "abstained" in printed
    assert "expected" not in printed


def test_tiles_get_no_class_alike(
    calibrated: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = create_dataset("folder", scenes, "val")[0][0]
    predictor = Predictor(calibrated, abstain=threshold_for(calibrated, scenes))
    whole = predictor(image)
    monkeypatch.setattr(predictor_module, "MAX_WHOLE", 5000)
    tiled = predictor(image)
    assert tiled.tiled
    assert np.array_equal(tiled.labels, whole.labels)
    assert 0 < tiled.abstained == whole.abstained < 1


@pytest.mark.parametrize(("classes", "ignored"), [(255, 255), (256, 65535), (300, 65535)])
def test_many_classes_have_an_ignored_value_of_their_own(
    tmp_path: Path, classes: int, ignored: int
) -> None:
    names = [f"class {k}" for k in range(classes)]
    table = identity_table(names, palette(names))
    labels = np.array([[0, classes - 1, ignored]], np.int32)
    for kind in ("index", "raw"):
        save_labels(kind, tmp_path / kind / "x.png", np.zeros((1, 3, 3), np.uint8), labels, table)
        assert np.asarray(Image.open(tmp_path / kind / "x.png")).tolist() == labels.tolist()


def test_ignored_pixels_of_public_datasets_are_255() -> None:
    for name in ("ade20k", "cityscapes"):
        table = load_label_table(name)
        raw = table.decode(np.array([[0, 255]], np.uint8))
        assert raw.dtype == np.uint8
        assert raw.tolist() == [[table.classes[0].raw_id, 255]]


@pytest.mark.parametrize("value", ["0", "1", "-0.5", "nan", "70%"])
def test_bad_thresholds_are_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(predict_command, "runs/x", "y.jpg", f"--abstain={value}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--abstain: must be above 0 and below 1, got '{value}'" in line


def test_thresholds_of_labels_without_confidence_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="abstain must be above 0 and below 1, got 1"):
        Predictor(make_run(), abstain=1)
    classes = len(load_segmentation_model(make_run()).classes)
    with pytest.raises(InputError, match=f"no effect at .* of {classes} classes"):
        Predictor(make_run(), abstain=1 / classes)
    model = load_segmentation_model(make_run())
    model.gives_confidence = False
    with pytest.raises(InputError, match=r"labels without confidences.*without --argmax"):
        Predictor(model, abstain=0.5)


def test_exports_carry_the_temperature(calibrated: Path, tmp_path: Path, scenes: Path) -> None:
    model, image = load_segmentation_model(calibrated), create_dataset("folder", scenes, "val")[0]
    ours = Predictor(calibrated)
    export_safetensors(model, tmp_path / "model.safetensors")
    model.save_pretrained(tmp_path / "folder")
    export_onnx(model, tmp_path / "model.onnx", fixed=(65, 97))
    for name in ("model.safetensors", "folder", "model.onnx"):
        found = Predictor(tmp_path / name)
        assert found.calibration == ours.calibration
        assert found.precision.endswith(f", temperature {ours.protocol.temperature:.3g}")
        expected = ours(image[0]).probabilities
        np.testing.assert_allclose(found(image[0]).probabilities, expected, atol=1e-3)


@pytest.mark.slow
def test_exported_labels_have_no_confidence(calibrated: Path, tmp_path: Path) -> None:
    model, path = load_segmentation_model(calibrated), tmp_path / "labels.onnx"
    export_onnx(model, path, fixed=(64, 96), argmax=True)
    assert Predictor(path).calibration is None
    with pytest.raises(InputError, match="labels without confidences"):
        Predictor(path, abstain=0.5)


def test_a_calibration_belongs_to_one_checkpoint(calibrated: Path) -> None:
    model = load_segmentation_model(calibrated)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights[next(iter(weights))] *= 2
    meta = {key: value for key, value in model.meta.items() if key != "calibration"}
    save_checkpoint(calibrated, step=2, best_step=2, weights=weights, training={}, meta=meta)
    moved = calibrated.rename(calibrated.with_name("my run"))
    with pytest.warns(UserWarning, match=r"run: sceneparse calibrate '.*/my run/"):
        assert Predictor(moved).calibration is None
    moved.rename(calibrated)
    with pytest.warns(UserWarning, match=r"of another checkpoint \(step 1, this one is of step 2"):
        assert Predictor(calibrated).calibration is None
    assert Predictor(calibrated / "checkpoints/step-00000001").calibration is not None
    (calibrated / "calibration.json").write_text('{"step": 2, "temperature": 0}')
    with pytest.raises(InputError, match="damaged; delete it, then run `sceneparse calibrate`"):
        Predictor(calibrated)


def test_what_cannot_be_calibrated_is_refused(
    make_run: MakeRun, tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, hidden = make_run(), tmp_path / "hidden"
    for name in ("model.onnx", "model.safetensors", "model.pt2"):
        assert call(calibrate_command, run / name) == 2
        assert "is exported from a run; calibrate the run" in capsys.readouterr().err
    shutil.copytree(scenes, hidden)
    for path in (hidden / "val/labels").iterdir():
        Image.fromarray(np.full((64, 96), 255, np.uint8)).save(path)
    assert call(calibrate_command, run, "--data", hidden) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "are ignored, so there is nothing to score; choose a --split with labels" in line
    assert call(calibrate_command, tmp_path / "none") == 2
    save_checkpoint(
        tmp_path / "classifier",
        step=1,
        best_step=1,
        weights=create_classifier("resnet20", 3).state_dict(),
        training={},
        meta={"task": "classification", "model": {"model": "resnet20", "num_classes": 3}},
    )
    capsys.readouterr()
    assert call(calibrate_command, tmp_path / "classifier") == 2
    assert "holds a classifier; give the run folder of a segmentation" in capsys.readouterr().err
    assert not (run / "calibration.json").exists()
