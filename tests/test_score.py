"""`sceneparse score`: label files of any program, matched, read and counted as others count."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sceneparse.cli import evaluate, score
from sceneparse.data.labels import load_label_table
from sceneparse.errors import InputError
from sceneparse.scoring.encoding import find_encoding
from sceneparse.scoring.matching import match_files
from sceneparse.scoring.truth import find_truth

CITYSCAPES = load_label_table("cityscapes")
Masks = dict[str, NDArray[np.uint8]]


def save(folder: Path, masks: Mapping[str, NDArray[np.uint8]]) -> Path:
    for name, mask in masks.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return folder


def scored(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    output = tmp_path / "scores"
    score.main(score.parser().parse_args([*map(str, arguments), "--output", str(output)]))
    found: dict[str, Any] = json.loads((output / "eval.json").read_text())
    return found


def random_masks(ids: list[int], seed: int, size: tuple[int, int] = (40, 60)) -> Masks:
    random = np.random.default_rng(seed)
    return {name: random.choice(ids, size).astype(np.uint8) for name in ("a_000000", "b_000001")}


def cityscapes_files(tmp_path: Path, predicted: list[int]) -> tuple[Path, Path]:
    """Write masks as the dataset has them, and predictions as its server takes them."""
    truth, wrong = random_masks(list(range(34)), 0), random_masks(predicted, 1)
    where = np.random.default_rng(2).random((40, 60)) < 0.6
    masks = {f"gtFine/val/{k[0]}/{k}_gtFine_labelIds.png": m for k, m in truth.items()}
    # What lies beside them is left alone.
    masks |= {name.replace("labelIds", "instanceIds"): mask for name, mask in masks.items()}
    found = {f"{k}_leftImg8bit.png": np.where(where, truth[k], wrong[k]) for k in truth}
    return save(tmp_path / "predictions", found), save(tmp_path / "data", masks)


def test_scores_are_those_of_the_cityscapes_script(tmp_path: Path) -> None:
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    # Of the ids, some are of no class; pixels that are predicted so are wrong.
    predictions, data = cityscapes_files(tmp_path, list(range(34)))
    found = scored(tmp_path, predictions, data, "--dataset", "cityscapes", "--split", "val")
    truth = sorted(data.rglob("*_labelIds.png"))
    official.args.quiet, official.args.evalInstLevelScore = True, False
    official.args.evalPixelAccuracy, official.args.JSONOutput = False, False
    files = [str(path) for path in sorted(predictions.iterdir())]
    theirs = official.evaluateImgLists(files, list(map(str, truth)), official.args)
    ours = {row["name"]: row["iou"] for row in found["classes"]}
    assert ours.pop("no prediction") == 0
    assert ours == {name: theirs["classScores"][name] for name in ours}
    assert found["mean_iou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-15)
    categories = {row["name"]: row["iou"] for row in found["categories"]}
    for name, iou in categories.items():
        assert name == "no prediction" or iou == pytest.approx(theirs["categoryScores"][name])
    assert found["mean_category_iou"] == pytest.approx(theirs["averageScoreCategories"])


def test_train_ids_and_ids_give_the_same_scores(tmp_path: Path) -> None:
    ids = [label.raw_id for label in CITYSCAPES.classes]
    predictions, data = cityscapes_files(tmp_path, ids)
    place = (data, "--dataset", "cityscapes", "--split", "val")
    files = {
        path.name: CITYSCAPES.encode(np.asarray(Image.open(path))) for path in predictions.iterdir()
    }
    as_train_ids = save(tmp_path / "train_ids", files)
    assert (
        scored(tmp_path, as_train_ids, *place)["classes"]
        == scored(tmp_path, predictions, *place)["classes"]
    )


def test_ade20k_counts_as_its_code_does(tmp_path: Path) -> None:
    """intersectionAndUnion and its mean over 150 classes, as CSAIL's evaluation defines them."""
    truth, found = random_masks(list(range(151)), 3), random_masks(list(range(1, 151)), 4)
    data = save(tmp_path / "data", {f"annotations/validation/{k}.png": m for k, m in truth.items()})
    predictions = save(tmp_path / "p", {f"{k}.png": m for k, m in found.items()})
    place = (data, "--dataset", "ade20k", "--split", "val", "--rule", "absent_is_zero")
    ours = scored(tmp_path, predictions, *place, "--ids", "raw")
    meet, union = np.zeros(150), np.zeros(150)
    for name, mask in truth.items():
        seen = found[name] * (mask > 0)
        for k in range(150):
            meet[k] += ((seen == k + 1) & (mask == k + 1)).sum()
            union[k] += ((seen == k + 1) | (mask == k + 1)).sum()
    assert ours["mean_iou"] == pytest.approx((meet / (union + 1e-10)).mean(), abs=1e-9)


def test_means_are_those_of_torchmetrics_and_smp(tmp_path: Path) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    smp = pytest.importorskip("segmentation_models_pytorch.metrics")
    truth, found = random_masks([0, 1, 2, 255], 5), random_masks([0, 1, 2], 6)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nnever\n")
    save(tmp_path / "masks", {f"{k}.png": m for k, m in truth.items()})
    save(tmp_path / "p", {f"{k}_pred.png": m for k, m in found.items()})
    stacks = [np.stack([masks[k] for k in truth]).astype(np.int64) for masks in (found, truth)]
    arrays = [torch.from_numpy(stack) for stack in stacks]
    counts = smp.get_stats(*arrays, mode="multiclass", num_classes=4, ignore_index=255)
    expected = {
        "cityscapes": classification.MulticlassJaccardIndex(4, ignore_index=255)(*arrays),
        "absent_is_one": smp.iou_score(*counts, reduction="macro"),
    }
    for rule, value in expected.items():
        ours = scored(tmp_path, tmp_path / "p", tmp_path / "masks", "--rule", rule)
        assert ours["mean_iou"] == pytest.approx(float(value), abs=1e-6)


@pytest.mark.parametrize(
    ("predictions", "masks"),
    [
        (["x_pred.png", "y_pred.png"], ["x.png", "y.png"]),
        (["bonn_1_leftImg8bit.png"], ["val/bonn/bonn_1_gtFine_labelIds.png"]),
        (["a/x_leftImg8bit_pred.png", "b/x_leftImg8bit_pred.png"], ["a/x_gt.png", "b/x_gt.png"]),
        (["x_prediction_trainIds.png"], ["x_mask.png"]),
    ],
)
def test_names_match_without_their_marks(
    tmp_path: Path, predictions: list[str], masks: list[str]
) -> None:
    one = np.zeros((2, 2), np.uint8)
    folder = save(tmp_path / "p", dict.fromkeys(predictions, one))
    found = match_files(folder, {Path(m).with_suffix("").as_posix(): tmp_path / m for m in masks})
    pairs = [(m.prediction.relative_to(folder).as_posix(), m.truth.name) for m in found.matches]
    assert pairs == list(zip(predictions, [Path(mask).name for mask in masks], strict=True))
    assert not found.without_prediction and not found.without_truth


def test_what_has_no_partner_is_refused_or_counted(tmp_path: Path) -> None:
    one = np.array([[0, 1]], np.uint8)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    masks = save(tmp_path / "masks", {"x.png": one, "y.png": one})
    folder = save(tmp_path / "p", {"x.png": one, "z.png": one})
    with pytest.raises(InputError, match="1 of 2 masks have no prediction: y"):
        scored(tmp_path, folder, masks)
    how = scored(tmp_path, folder, masks, "--partial")["how"]
    assert how["not scored"] == "1 masks without a prediction: y"
    assert how["left out"] == "1 predictions without a mask: z.png"
    save(folder, {"x_pred.png": one})
    with pytest.raises(InputError, match="2 files belong to one image"):
        scored(tmp_path, folder, masks, "--partial")


def test_all_files_that_cannot_be_scored_are_named(tmp_path: Path) -> None:
    one, wide = np.array([[0, 1]], np.uint8), np.array([[0, 1, 1]], np.uint8)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    masks = save(tmp_path / "masks", {"x.png": one, "y.png": one, "z.png": one})
    folder = save(tmp_path / "p", {"x.png": one, "y.png": wide})
    (folder / "z.png").write_bytes((folder / "x.png").read_bytes()[:40])
    with pytest.raises(
        InputError, match=r"2 of 3 pairs .*y\.png is 3x1, its mask .* 2x1, .*z\.png"
    ):
        scored(tmp_path, folder, masks, "--ids", "raw")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0, 1, 18], "train"), ([0, 18, 255], "train"), ([7, 8, 33], "raw"), ([0, 7, 26], "raw")],
)
def test_ids_are_recognised_by_their_values(tmp_path: Path, values: list[int], kind: str) -> None:
    path = save(tmp_path, {"x.png": np.array([values], np.uint8)}) / "x.png"
    assert find_encoding([path], CITYSCAPES, None, option="--ids").kind == kind


@pytest.mark.parametrize(
    ("values", "said"),
    [([7, 8, 11], "say which with --ids raw or --ids train"), ([7, 99], "no class: 99")],
)
def test_ids_that_leave_it_open_are_refused(tmp_path: Path, values: list[int], said: str) -> None:
    path = save(tmp_path, {"x.png": np.array([values], np.uint8)}) / "x.png"
    with pytest.raises(InputError, match=said):
        find_encoding([path], CITYSCAPES, None, option="--ids")


def test_colours_and_palettes_are_read(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "colors.txt").write_text("10 0 0\n0 20 0\n")
    index = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    masks = save(tmp_path / "masks", {"x.png": index})
    colours = np.array([[10, 0, 0], [0, 20, 0]], np.uint8)[index]
    image = Image.fromarray(index, "P")
    image.putpalette([200, 0, 0, 0, 200, 0])
    for name, picture in {"c": Image.fromarray(colours), "p": image}.items():
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "x.png")
        assert scored(tmp_path, tmp_path / name, masks)["mean_iou"] == 1
    save(tmp_path / "c", {"x.png": colours + np.uint8(1)})
    with pytest.raises(InputError, match="2 colours of no class"):
        scored(tmp_path, tmp_path / "c", masks)


def test_masks_are_found_without_images(tmp_path: Path) -> None:
    one = np.array([[1, 2]], np.uint8)
    places = {
        "ade20k": "annotations/validation/x.png",
        "camvid": "valannot/x.png",
        "folder": "val/labels/x.png",
        "cityscapes": "gtFine/val/bonn/x_gtFine_labelIds.png",
        "pascal_context_59": "SegmentationClassContext/x.png",
    }
    save(tmp_path, dict.fromkeys(places.values(), one))
    listing = tmp_path / "ImageSets/SegmentationContext/val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("x\n")
    for dataset, place in places.items():
        if dataset == "folder":
            (tmp_path / "classes.txt").write_text("a\nb\n")
        assert [*find_truth(tmp_path, dataset, "val", None).masks.values()] == [tmp_path / place]
        (tmp_path / "classes.txt").unlink(missing_ok=True)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="but the dataset 'camvid' has 11 of its own"):
        find_truth(tmp_path, "camvid", "val", None)
    with pytest.raises(InputError, match="holds images beside masks"):
        find_truth(save(tmp_path / "root", {"val/images/x.png": one}), None, None, None)
    with pytest.raises(InputError, match="give --classes FILE"):
        find_truth(save(tmp_path / "far/away/masks", {"x.png": one}), None, None, None)


def test_one_image_and_any_names_make_a_whole_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masks = save(tmp_path / "masks", {"a.png": np.zeros((1, 1), np.uint8)})
    names = tmp_path / "classes.txt"
    names.write_text("\U00013000\n<b>\nlong" + " name" * 30, "utf-8")  # no font has the first
    options = "--classes", names, "--report", "--exclude", "<b>"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored(tmp_path, masks, masks, *options)
    assert "no font here has: \U00013000;" in caplog.text
    page = (tmp_path / "scores/report.html").read_text("utf-8")
    shown = page.split("</main>")[0].split("<main>")[1]
    assert "nan" not in shown
    for part in ("one image gives no 95% interval", "No pixel is wrong.", "&lt;b&gt; (excluded)"):
        assert part in shown


def test_comparisons_of_different_folders_have_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    masks = save(tmp_path / "masks", {"a.png": np.eye(8, dtype=np.uint8)})
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    for output in ("one", "two", "three"):
        options = "--classes", str(names), "--output", f"scores/{output}"
        score.main(score.parser().parse_args([str(masks), str(masks), *options]))
    for first in ("one", "two"):
        sides = ["--compare", f"scores/{first}", "scores/three"]
        evaluate.main(evaluate.parser().parse_args(sides))
    found = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert found == ["compare_one_three", "compare_two_three"]


def test_folders_whose_names_are_no_text_are_named_in_the_scores(tmp_path: Path) -> None:
    try:
        folder = tmp_path / os.fsdecode(b"a\xff")
        masks = save(folder, {"a.png": np.eye(8, dtype=np.uint8)})
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    found = scored(tmp_path, masks, masks, "--classes", names, "--report")
    assert found["settings"]["data"] == str(masks)
