"""Evaluation end to end: intervals, report, comparison, and rejected input."""

from __future__ import annotations

import csv
import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeRun
from PIL import Image
from test_train_seg import CITYSCAPES_LABEL_IDS, call, write_cityscapes

import sceneparse
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.data.datasets import create_dataset
from tests.browser import dom_of
from tests.processes import run_ranks

PLOTS = [
    f"{name}.{kind}"
    for name in ("calibration", "classes", "confusion", "risk")
    for kind in ("png", "svg")
]


def evaluated(run: Path, *options: object) -> Path:
    assert call(evaluate_command, run, "--workers", 0, *options) == 0
    return run / "eval_val"


def test_everything_that_was_asked_for_is_written(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    output = evaluated(make_run(), "--report", "--boundary", "--bootstrap", 200)
    result = json.loads((output / "eval.json").read_text())
    printed = capsys.readouterr().out
    assert (
        f"{result['mean_iou']:.4f}  (95% interval {result['mean_iou_interval'][0]:.4f}" in printed
    )
    for name in ("mean boundary IoU", "mean boundary F1", "calibration error"):
        assert name in printed
    assert result["mean_iou_interval"][0] <= result["mean_iou"] <= result["mean_iou_interval"][1]
    assert sorted(path.name for path in (output / "plots").iterdir()) == PLOTS
    with (output / "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in result["classes"]]
    assert {"iou_low", "iou_high", "precision", "dice", "boundary_iou"} <= set(rows[0])
    with (output / "images.csv").open() as file:
        images = list(csv.DictReader(file))
    assert [row["image"] for row in images] == [f"scene_{n:05d}" for n in range(12, 17)]
    page = (output / "report.html").read_text()
    assert result["protocol"] in html.unescape(page)
    assert result["risk_coverage"]["coverage"][7] == 0
    assert "No pixel has a confidence of at least 0.80." in page
    # nothing is loaded from elsewhere, so the page works offline
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('class="layer prediction"') == 5
    assert 'type="range"' in page


def test_examples_are_the_worst_and_the_best_predicted_once(
    make_run: MakeRun, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    expected = {}
    for index in range(12):
        image, _, name = create_dataset("folder", scenes, "train")[index]
        expected[name] = sceneparse.Predictor(run).score(image[None]).labels()[0].numpy()
    shown = []
    monkeypatch.setattr(sceneparse.Predictor, "score", None)  # a second time
    monkeypatch.setattr(
        "sceneparse.evaluation.page.layered_figure",
        lambda *arguments: shown.append(arguments) or {},
    )
    monkeypatch.setattr("sceneparse.evaluation.page.write_page", lambda *_: None)
    evaluated(run, "--split", "train", "--report")
    with (run / "eval_train/images.csv").open() as file:
        scores = {row["image"]: float(row["mean_iou"]) for row in csv.DictReader(file)}
    found = [score for _, score, _ in shown]
    ranked = sorted(scores.values())
    assert found == pytest.approx([*ranked[:6], *ranked[:-4:-1]], abs=5e-5)
    for example, score, _ in shown:
        assert np.array_equal(example.prediction, expected[example.name])
        assert score == pytest.approx(scores[example.name], abs=5e-5)


def test_a_folder_that_cannot_be_written_is_told_before_the_evaluation(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    (run / "eval_val").mkdir()

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("sceneparse.evaluation.dataset.evaluate_dataset", None)  # never called
    assert call(evaluate_command, run) == 2
    expected = f"cannot write '{run}/eval_val': Permission denied; choose another place with --out"
    assert expected in capsys.readouterr().err


def test_report_works_in_a_browser(make_run: MakeRun, tmp_path: Path) -> None:
    output = evaluated(make_run(), "--report")
    page = (output / "report.html").read_text()
    probe = """<script>
      opacity.value = 0.25; opacity.dispatchEvent(new Event("input"));
      document.querySelector("input[value=errors]").click();
      const shown = [...document.querySelectorAll(".layer")].filter(
        image => getComputedStyle(image).visibility == "visible");
      document.title = [
        document.documentElement.scrollWidth <= innerWidth,
        [...document.images].every(image => image.complete && image.naturalWidth > 0),
        shown.length, shown.every(image => image.classList.contains("errors")),
        getComputedStyle(shown[0]).opacity].join(" ");
    </script></body>"""
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe))
    page = dom_of(tmp_path / "probe.html", width=500)  # about a phone's width
    assert "<title>true true 5 true 0.25</title>" in page


@pytest.mark.fault(32)
def test_more_processes_than_images_count_the_same(
    make_run: MakeRun, scenes: Path, tmp_path: Path
) -> None:
    root = tmp_path / "two"
    shutil.copytree(scenes, root)
    for path in sorted((root / "val").glob("*/*"))[::5] + sorted((root / "val").glob("*/*"))[1::5]:
        path.unlink()
    assert len(list((root / "val/images").iterdir())) == 3
    run = make_run(root=root)
    results = []
    for processes in (1, 4):
        output = run / f"by-{processes}"
        options = ["--report", "--boundary", "--workers", 0, "--output", output]
        if processes == 1:
            evaluated(run, *options)
        else:
            run_ranks([run, *options], processes, tmp_path / "ranks.log")
        with np.load(output / "counts.npz") as counts:
            table, page = (output / "eval.csv").read_text(), (output / "report.html").read_text()
            pictures = (
                (output / "examples.png").read_bytes(),
                page.partition("<h3>")[2].partition("<footer")[0],
            )
            results.append((counts["by_image"], table, pictures))
    for by_image, table, pictures in results[1:]:
        assert np.array_equal(by_image, results[0][0])
        assert table == results[0][1]
        assert pictures == results[0][2]


def test_comparison_says_what_is_separated(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = make_run("first", 0), make_run("second", 1)
    evaluated(first)
    evaluated(second)
    capsys.readouterr()
    output = tmp_path / "compared"
    assert call(evaluate_command, "--compare", first, second, "--output", output) == 0
    printed = capsys.readouterr().out
    result = json.loads((output / "compare.json").read_text())
    assert result["verdict"] in printed
    overall = result["rows"][0]
    means = [
        json.loads((run / "eval_val/eval.json").read_text())["mean_iou"] for run in (first, second)
    ]
    assert (overall["a"], overall["b"]) == pytest.approx(tuple(means))
    assert overall["difference"] == pytest.approx(means[1] - means[0])
    assert overall["low"] <= overall["difference"] <= overall["high"]
    words = "Separated: " if overall["separated"] else "Not separated: "
    assert result["verdict"].startswith(words)
    assert {path.name for path in output.iterdir()} == {
        "compare.html",
        "compare.json",
        "compare.csv",
        "differences.png",
        "differences.svg",
    }
    # Nothing was saved, so the networks predict the images that differ most once more.
    page = (output / "compare.html").read_text()
    assert "There are no pictures" not in page
    assert page.count('alt="prediction of scene_') == 2 * page.count("<figure style") > 0

    assert call(evaluate_command, "--compare", first, first, "--output", output) == 0
    assert "Not separated: A" in capsys.readouterr().out


def test_comparison_of_different_things_is_refused(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run("first"), make_run("second")
    evaluated(first)
    assert call(evaluate_command, "--compare", first, second) == 2
    assert "holds no evaluation; run `sceneparse evaluate" in capsys.readouterr().err
    assert call(evaluate_command, second, "--split", "train", "--output", second / "eval_val") == 0
    assert call(evaluate_command, "--compare", first, second) == 2
    assert "has 5 images" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    mask = other / "val/labels/scene_00013.png"
    Image.fromarray(np.roll(np.asarray(Image.open(mask)), 5, axis=0) // 2).save(mask)
    evaluated(second, "--data", other)
    sides = (first, second / "eval_val_other")
    assert call(evaluate_command, "--compare", *sides) == 2
    assert "the masks of 1 images differ between the two: scene_00013" in capsys.readouterr().err
    stored = second / "eval_val_other/counts.npz"
    whole = stored.read_bytes()
    middle = len(whole) // 2
    flipped = (
        whole[:middle] + bytes(255 - b for b in whole[middle : middle + 40]) + whole[middle + 40 :]
    )
    for damaged in (b"PK", whole[:-100], flipped):
        stored.write_bytes(damaged)
        assert call(evaluate_command, "--compare", *sides) == 2
        assert "counts.npz: damaged" in capsys.readouterr().err


def test_each_dataset_and_protocol_has_its_own_folder(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, twins = make_run(), [tmp_path / "a/night", tmp_path / "b/night"]
    for twin in twins:
        shutil.copytree(scenes, twin)
    pairs = [f"val/images/scene_000{n}.jpg val/labels/scene_000{n}.png\n" for n in (12, 13)]
    for number, name in enumerate(("val.txt", "val/val.txt")):
        (twins[0] / name).write_text("".join(pairs[number:]))
    slide = ["--protocol", "slide", "--crop", 40, 48]
    evaluations: list[list[object]] = [
        [],
        ["--data", twins[0]],
        ["--data", twins[1]],
        ["--data", twins[0], "--split", "val.txt"],
        ["--data", twins[0], "--split", "val/val.txt"],
        slide,
        ["--mirror", "--scales", 0.5, 1],
        ["--exclude", "sky", "lane mark"],
    ]
    written: list[dict[Path, bytes]] = []
    for options in evaluations * 2:
        before = set(run.glob("eval_*"))
        assert call(evaluate_command, run, "--workers", 0, "--bootstrap", 9, *options) == 0
        new = set(run.glob("eval_*")) - before
        assert len(new) == (len(written) < len(evaluations))
        if new:
            written.append({path: path.read_bytes() for path in new.pop().glob("eval.json")})
    names = [path.parent.name for stored in written for path in stored]
    assert names[:2] + names[5:] == [
        *("eval_val", "eval_val_night", "eval_val_slide_40x48", "eval_val_scales0.5-1_mirror"),
        "eval_val_without_sky_lane-mark",
    ]
    assert names[2].startswith("eval_val_night_")
    for stored in written:
        assert {path: path.read_bytes() for path in stored} == stored
    # the usual evaluation keeps its folder, even after another one that would have its name
    again = make_run("again")
    (again / "list").mkdir()
    assert call(evaluate_command, again, "--workers", 0, "--split", "train") == 0
    evaluated(again, *slide)
    assert not (again / "eval_val").exists()
    capsys.readouterr()
    output = tmp_path / "compared"
    assert call(evaluate_command, "--compare", run, again, "--output", output) == 0
    printed = capsys.readouterr().out
    assert f"A            {run}/eval_val_slide_40x48 (the run also holds eval_val, " in printed
    assert f"B            {again}/eval_val_slide_40x48 (the run also holds eval_train)" in printed


def test_excluded_classes_count_in_no_mean(
    make_run: MakeRun, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    usual = json.loads((evaluated(run, "--bootstrap", 99) / "eval.json").read_text())
    options = ["--exclude", "sky", "--boundary", "--bootstrap", 99, "--save", "index"]
    evaluated(run, *options)
    output = run / "eval_val_without_sky"
    found = json.loads((output / "eval.json").read_text())
    printed = capsys.readouterr().out
    assert "excluded from the means: sky, whose pixels still count as wrong" in printed
    assert "sky (excluded)" in printed
    assert (found["excluded"], usual["excluded"]) == (["sky"], [])
    # by the definition, from the files: intersection and union of sets of pixels
    classes = (scenes / "classes.txt").read_text().splitlines()
    truth, predicted = (
        np.concatenate([np.asarray(Image.open(p)).ravel() for p in sorted(folder.iterdir())])
        for folder in (scenes / "val/labels", output / "index")
    )
    predicted, truth = predicted[truth != 255], truth[truth != 255]
    ious, recalls, dices = {}, {}, {}
    for number, name in enumerate(classes):
        a, b = truth == number, predicted == number
        if name != "sky" and (a | b).any():
            ious[name] = (a & b).sum() / (a | b).sum()
            dices[name] = 2 * (a & b).sum() / (a.sum() + b.sum())
        if name != "sky" and a.any():
            recalls[name] = (a & b).sum() / a.sum()
    for key, values in (("iou", ious), ("accuracy", recalls), ("dice", dices)):
        assert found[f"mean_{key}"] == pytest.approx(np.mean(list(values.values())), abs=1e-12)
    assert found["mean_iou"] != usual["mean_iou"]
    boundary = [row["boundary_iou"] for row in found["classes"] if row["name"] in ious]
    assert found["mean_boundary_iou"] == pytest.approx(np.mean(boundary))
    assert found["pixel_accuracy"] == usual["pixel_accuracy"]
    drop = ("boundary_iou", "boundary_f1")
    rows = [{k: v for k, v in row.items() if k not in drop} for row in found["classes"]]
    assert rows == usual["classes"]
    low, high = found["mean_iou_interval"]
    assert low <= found["mean_iou"] <= high

    assert call(evaluate_command, "--compare", run / "eval_val", output) == 2
    assert "eval_val excludes no class, " in capsys.readouterr().err
    compared = tmp_path / "compared"
    assert call(evaluate_command, "--compare", output, output, "--output", compared) == 0
    rows = json.loads((compared / "compare.json").read_text())["rows"]
    assert rows[0]["a"] == pytest.approx(found["mean_iou"])
    assert [row["name"] for row in rows[1:]] == [name for name in classes if name != "sky"]
    assert call(evaluate_command, run, "--exclude", "skies") == 2
    assert f"no class 'skies'; the model has {', '.join(classes)}" in capsys.readouterr().err
    assert call(evaluate_command, run, "--exclude", *classes) == 2
    assert "no class would be left" in capsys.readouterr().err


def test_split_with_withheld_labels_names_the_command_instead(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "city scapes"
    write_cityscapes(root)
    run = make_run(dataset="cityscapes", root=root)
    before = sorted(run.rglob("*"))
    for folder in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / folder / "val", root / folder / "test")
    masks = sorted((root / "gtFine/test").rglob("*_labelIds.png"))
    for mask in masks:  # as the dataset's: ego vehicle, border, out of roi
        Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 3)).save(mask)
    assert call(evaluate_command, run, "--split", "test", "--save", "raw") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"all pixels of all {len(masks)} masks (" in line
    assert f"sceneparse predict {run} '{root}/leftImg8bit/test" in line
    assert line.endswith("' --save raw")
    assert sorted(run.rglob("*")) == before
    # one labelled pixel in the last mask is enough
    labelled = np.asarray(Image.open(masks[-1])).copy()
    labelled[0, 0] = 7
    Image.fromarray(labelled).save(masks[-1])
    assert call(evaluate_command, run, "--split", "test", "--workers", 0) == 0
    # 7 is road, class 0: with ignored pixels alone it may be a mask of 0/255
    assert "the masks hold only 0 and 255" in capsys.readouterr().out
    labelled[0, 0] = 8
    Image.fromarray(labelled).save(masks[-1])
    assert call(evaluate_command, run, "--split", "test", "--workers", 0) == 0
    assert "the masks hold only" not in capsys.readouterr().out


def test_categories_of_cityscapes(make_run: MakeRun, tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    write_cityscapes(root)
    output = evaluated(make_run(dataset="cityscapes", root=root), "--rule", "absent_is_zero")
    result = json.loads((output / "eval.json").read_text())
    # https://github.com/mcordts/cityscapesScripts, labels.py
    assert [row["name"] for row in result["categories"]] == [
        "flat",
        "construction",
        "object",
        "nature",
        "sky",
        "human",
        "vehicle",
    ]
    ious = [row["iou"] or 0 for row in result["classes"]]
    assert result["mean_iou"] == pytest.approx(sum(ious) / 19)
    assert result["absent_class_rule"].startswith("absent_is_zero")


def test_raw_files_have_raw_values_whatever_the_masks_hold(
    make_run: MakeRun, tmp_path: Path
) -> None:
    root = tmp_path / "cityscapes"
    write_cityscapes(root)
    for mask in (root / "gtFine").rglob("*_labelIds.png"):
        train_ids = np.asarray(Image.open(mask)) % 19
        Image.fromarray(train_ids).save(str(mask).replace("labelIds", "labelTrainIds"))
        mask.unlink()
    output = evaluated(make_run(dataset="cityscapes", root=root), "--save", "raw", "index")
    for path in (output / "index").iterdir():
        raw = np.asarray(Image.open(output / "raw" / path.name))
        assert np.array_equal(raw, np.array(CITYSCAPES_LABEL_IDS)[np.asarray(Image.open(path))])


def test_results_never_leave_their_folder(make_run: MakeRun, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    image, mask = root / "val/images/scene_00012.jpg", root / "val/labels/scene_00012.png"
    (root / "list.txt").write_text(
        f"{image}\t{mask}\n../data/{image.relative_to(root).with_name('scene_00013.jpg')}\t{mask.with_name('scene_00013.png')}\n"
    )
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    run = make_run(root=root)
    assert (
        call(evaluate_command, run, "--split", "list.txt", "--save", "overlay", "--workers", 0) == 0
    )
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    saved = sorted((run / "eval_list/overlay").rglob("*.png"))
    assert [path.name for path in saved] == ["scene_00012.png", "scene_00013.png"]


def test_class_names_are_not_formulas(make_run: MakeRun, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    names = (root / "classes.txt").read_text().splitlines()
    (root / "classes.txt").write_text("\n".join(["price $\\q$", "<b>", *names[2:]]))
    output = evaluated(make_run(root=root), "--report")
    assert "&lt;b&gt;" in (output / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a run or checkpoint to evaluate, or two with --compare"),
        (["run", "--compare", "a", "b"], "give a run or checkpoint"),
        (
            ["--compare", "a", "b", "--rule", "truth_only", "--report"],
            "--rule, --report would change",
        ),
        (["run", "--rule", "best"], "--rule: invalid choice: 'best' (choose from"),
        (["run", "--bootstrap", "-1"], "--bootstrap: must be 0 or more"),
        (["run", "--workers", "-1"], "--workers: must be 0 or more"),
        (["run", "--protocol", "slide", "--crop", "70000", "64"], "a height and width in 1..65535"),
        (["run", "--scales", "0"], "scales must be positive"),
        (["nowhere"], "'nowhere' does not exist"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str],
    message: str,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(make_run().parent)
    assert call(evaluate_command, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
