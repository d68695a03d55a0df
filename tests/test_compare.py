"""The command that compares: it recognises what it is given, and refuses what cannot be mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_train_seg import call

from sceneparse.cli import compare as compare_command
from sceneparse.cli import evaluate as evaluate_command
from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH

CLASSES = ["sky", "road", "car"]
STUDY = {
    **{"seconds": "60.0", "parameters": "1000", "multiply_adds": "5000"},
    **{"commit": "abc", "machine": "m", "torch": "t", "date": "d"},
}


def store(folder: Path, seed: int, gain: int = 0, how: dict[str, str] | None = None) -> Path:
    """Write what a comparison reads of an evaluation; a larger `gain` gets more pixels right."""
    truth = np.random.default_rng(0).integers(200, 400, (12, len(CLASSES)))
    wrong = np.random.default_rng(seed).integers(60, 100, truth.shape) - gain
    by_image = np.zeros((12, 3, len(CLASSES)), dtype=np.int64)
    by_image[:, RIGHT], by_image[:, TRUTH] = truth - wrong, truth
    by_image[:, PREDICTED] = truth - wrong + np.roll(wrong, 1, axis=1)
    folder.mkdir(parents=True)
    images = np.array([f"image-{k}" for k in range(12)])
    np.savez(folder / "counts.npz", by_image=by_image, images=images, classes=np.array(CLASSES))
    about = {"protocol": "whole", "absent_class_rule": "cityscapes: ...", "how": how or {}}
    (folder / "eval.json").write_text(json.dumps(about))
    return folder


def classifier(folder: Path) -> Path:
    write_meta(folder / "seed-0", {"task": "classification"})
    return folder


def write_meta(run: Path, meta: object) -> None:
    newest = run / "checkpoints/step-00000002"
    newest.mkdir(parents=True)
    (newest / "meta.json").write_text(json.dumps(meta))


def mean_iou(folder: Path) -> float:
    with np.load(folder / "counts.npz") as arrays:
        right, truth, predicted = arrays["by_image"].sum(axis=0)
    return float((right / (truth + predicted - right)).mean())


def test_two_evaluations_are_compared_as_evaluate_does(tmp_path: Path) -> None:
    first, second = tmp_path / "first", store(tmp_path / "scores", 2, gain=30)
    store(first / "eval_val", 1)
    store(first / "eval_train", 3)
    options = ["--split", "val", "--output"]
    assert call(compare_command, first, second, *options, tmp_path / "a") == 0
    assert call(evaluate_command, "--compare", first, second, *options, tmp_path / "b") == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        *("compare.html", "compare.json", "compare.csv", "differences.png", "differences.svg")
    }
    for name in ("compare.json", "compare.csv"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def test_rows_of_seeds_are_compared_with_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    for row, gain in (("mpm", 30), ("fcn", 0)):
        for seed in range(3):
            store(study / row / f"seed-{seed}/eval_test", 10 + seed + gain, gain, STUDY)
    (study / "fcn/seed-3").mkdir()
    entries = [{"config": row} for row in ("fcn", "mpm", "fcn", "mpm")]
    (study / "study.json").write_text(json.dumps(entries))
    output = tmp_path / "compared"
    # a study stands for its rows, in their order
    assert call(compare_command, study, "--output", output) == 0
    printed = capsys.readouterr().out
    assert "fcn: not evaluated and skipped: seed-3." in printed
    found = json.loads((output / "compare.json").read_text())
    assert [(entry["config"], entry["seed"]) for entry in found] == [
        *(("fcn", 0), ("fcn", 1), ("fcn", 2)),
        *(("mpm", 0), ("mpm", 1), ("mpm", 2)),
    ]
    for entry in found:
        folder = study / entry["config"] / f"seed-{entry['seed']}/eval_test"
        assert entry["mean_iou"] == pytest.approx(mean_iou(folder))
        assert (entry["split"], entry["parameters"]) == ("test", 1000)
    means = [np.mean([e["mean_iou"] for e in found if e["config"] == r]) for r in ("fcn", "mpm")]
    line = next(x for x in (output / "compare.md").read_text().splitlines() if "| mpm" in x)
    assert f"| {100 * (means[1] - means[0]):+.2f}, separated |" in line
    for kind in ("scores", "costs", "classes"):
        assert (output / f"compare_{kind}.png").is_file()
    page = (output / "compare.html").read_text()
    assert f"mpm against fcn: by seeds {100 * (means[1] - means[0]):+.2f} points, separated" in page
    assert page.count("<figure><img") == 3
    assert "<tr><td>commit</td><td>abc</td></tr>" in page

    rows = [study / "mpm", study / "fcn"]
    assert call(compare_command, *rows, "--output", tmp_path / "turned") == 0
    turned = (tmp_path / "turned/compare.md").read_text()
    assert f"| {100 * (means[0] - means[1]):+.2f}, separated |" in turned


def test_three_evaluations_without_costs(tmp_path: Path) -> None:
    runs = [store(tmp_path / name / "eval_val", seed).parent for seed, name in enumerate("abc")]
    output = tmp_path / "compared"
    assert call(compare_command, *runs, "--output", output) == 0
    table = (output / "compare.md").read_text()
    assert "| val mean IoU |" in table
    assert f"| a | {mean_iou(runs[0] / 'eval_val'):.4f} | - | 1 | - | - | - | - | - | - |" in table
    assert not (output / "compare_costs.png").exists()


def test_earlier_comparisons_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("first", "second")):
        store(tmp_path / "runs" / name / "eval_val", seed)
    results = []
    for _ in range(2):
        paths = sorted(path.relative_to(tmp_path) for path in (tmp_path / "runs").iterdir())
        assert call(compare_command, *paths) == 0
        results.append((tmp_path / "runs/compare_eval/compare.json").read_text())
    assert len(paths) == 3
    assert results[0] == results[1]
    assert "runs/compare_eval holds results of a comparison and is skipped" in (
        capsys.readouterr().out
    )
    # one that was broken off, and one of another name
    (tmp_path / "runs/compare_eval").rename(tmp_path / "runs/older")
    (tmp_path / "runs/compare_cls").mkdir()
    assert call(compare_command, *sorted((tmp_path / "runs").iterdir())) == 0
    printed = capsys.readouterr().out
    assert "older holds results of a comparison" in printed
    assert "compare_cls holds results of a comparison" in printed
    assert call(compare_command, "runs/older") == 2
    assert "results of earlier comparisons; give runs" in capsys.readouterr().err


def test_what_cannot_be_mixed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none, eca = classifier(tmp_path / "none"), classifier(tmp_path / "eca")
    run = store(tmp_path / "run/eval_val", 0).parent
    scores = store(tmp_path / "scores", 1)
    other = store(tmp_path / "other", 2)
    with np.load(other / "counts.npz") as stored:
        arrays = {**stored, "by_image": stored["by_image"] + 1}
    np.savez(other / "counts.npz", **arrays)
    trained = tmp_path / "trained"
    write_meta(trained, {"task": "segmentation"})
    write_meta(tmp_path / "damaged", [])
    mixed = f"'{none}' is a classifier, '{run}' is a segmentation run, '{scores}' is an evaluation"
    cases: list[tuple[list[object], str]] = [
        ([none, run, scores], mixed),
        ([none, scores, tmp_path / "nowhere"], "nowhere' is neither"),
        ([run, other, scores], "the masks of 12 images differ"),
        ([run, trained], f"'{trained}' holds no evaluation; run `sceneparse evaluate"),
        ([run, tmp_path / "no where"], "no where' does not exist; give a run folder"),
        ([run, tmp_path / "damaged"], "damaged or not of a run"),
        ([run], "has nothing to be compared with"),
        ([run, scores, run], "given twice"),
        ([run, scores, "--counted"], "--counted changes nothing for evaluations"),
        ([none, eca, "--split", "val"], "--split changes nothing for classifiers"),
    ]
    for arguments, message in cases:
        assert call(compare_command, *arguments, "--output", tmp_path / "refused") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert not (tmp_path / "refused").exists()
