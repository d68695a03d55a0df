"""Studies: every row and seed once, tested as `sceneparse evaluate` tests, finished ones kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats
from test_train_seg import call

from sceneparse.cli import evaluate as evaluate_command
from sceneparse.cli import study as study_command
from sceneparse.config.recipes import find_config
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import Preempted
from sceneparse.studies.segmentation import read_study

BASE = """
data: {workers: 0}
augment: {crop: [33, 49]}
model: {backbone: resnet18, stem: plain, base_width: 8, width: 8, aux: false, multi_grid: null}
train: {epochs: 1, batch_size: 4, amp: off}
"""
STUDY = """
config: base.yaml
split: val
reference: fcn
seeds: [0, 3]
rows:
  fcn: {model.head: fcn}
  psp: {model.head: psp}
"""
NC_WEIGHTS = "model.backbone: convnextv2_atto, model.pretrained: imagenet"


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, list[str]]:
    write_dataset(tmp_path / "data", {"train": 4, "val": 3}, size=(48, 64))
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path, [f"data.root={tmp_path / 'data'}", f"output={tmp_path / 'out'}"]


def test_rows_and_seeds_are_tested_once(
    study: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, settings = study
    assert call(study_command, path, *settings) == 0
    assert "4 of 4 runs are finished" in capsys.readouterr().out
    written = tmp_path / "out" / "study.json"
    entries = json.loads(written.read_text())
    order = [(entry["config"], entry["seed"]) for entry in entries]
    assert order == [("fcn", 0), ("psp", 0), ("fcn", 3), ("psp", 3)]
    for entry in entries:
        last = tmp_path / "out" / entry["config"] / f"seed-{entry['seed']}" / "last"
        assert call(evaluate_command, last, "--output", tmp_path / "again") == 0
        again = json.loads((tmp_path / "again" / "eval.json").read_text())
        assert entry["mean_iou"] == again["mean_iou"]
        assert entry["classes"] == {row["name"]: row["iou"] for row in again["classes"]}
    fcn, psp = ([e["mean_iou"] for e in entries if e["config"] == row] for row in ("fcn", "psp"))
    p_value = stats.ttest_ind(fcn, psp, equal_var=False).pvalue
    word = "separated" if p_value < 0.05 else "not separated"
    line = next(x for x in written.with_suffix(".md").read_text().splitlines() if "| psp" in x)
    assert f"| {100 * (sum(psp) - sum(fcn)) / 2:+.2f}, {word} |" in line

    metrics = tmp_path / "out/psp/seed-3/metrics.jsonl"
    before = metrics.stat().st_mtime_ns
    assert call(study_command, path, *settings) == 0
    assert metrics.stat().st_mtime_ns == before


def test_a_stopped_study_advises_what_it_takes(
    study: tuple[Path, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(_: object) -> None:
        raise Preempted("SIGTERM received, saved after step 3; resume with --resume")

    monkeypatch.setattr("sceneparse.studies.segmentation.train", stop)
    path, settings = study
    assert call(study_command, path, *settings) == Preempted.exit_code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        "stopped: a signal was received, and run 1 of 4 is saved; repeat the same command to "
        "resume it"
    )


def test_unfinished_runs_are_left_out(
    study: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, settings = study
    assert call(study_command, path, *settings, "--summary") == 2
    assert "holds no finished run yet" in capsys.readouterr().err


def test_shared_settings_come_before_rows_and_after_the_command(
    study: tuple[Path, list[str]],
) -> None:
    path, settings = study
    shared = "settings: {model.head: upernet, train.epochs: 5, optim.lr: 0.5}\nrows:\n  own: {}"
    path.write_text(STUDY.replace("rows:", shared))
    runs = {run.row: run.config for run in read_study(path, [*settings, "optim.lr=0.25"]).runs}
    assert [runs[row].model.head for row in ("own", "fcn", "psp")] == ["upernet", "fcn", "psp"]
    assert {(run.train.epochs, run.optim.lr) for run in runs.values()} == {(5, 0.25)}


@pytest.mark.parametrize("name", ["study/camvid", "study/camvid_spnet50"])
def test_a_copied_study_finds_its_configuration_among_the_recipes(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(find_config(name).read_text())
    shipped = read_study(find_config(name), ["output=out"])
    assert read_study(path, ["output=out"]) == shipped
    # a file beside it comes before a recipe
    beside = tmp_path / f"{shipped.config.config}"
    beside.parent.mkdir(exist_ok=True)
    beside.write_text("data: {root: here}\ntrain: {epochs: 77}")
    assert {run.config.train.epochs for run in read_study(path, []).runs} == {77}


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        (STUDY.replace("psp}", "pspp}"), "", "unknown head 'pspp'"),
        (STUDY.replace("model.head: psp", "model.haed: psp"), "", "did you mean 'head'"),
        (STUDY.replace("reference: fcn", "reference: x"), "", "reference 'x' is none of rows"),
        (STUDY.replace("[0, 3]", "[0, 0]"), "", "seeds must differ"),
        (STUDY.replace("  psp:", "  ../psp:"), "", "rows.../psp"),
        (STUDY, "model.head=fcn", "model.head is what the rows of"),
        (STUDY, "seed=1", "remove it from the command"),
        (STUDY.replace("psp}", "psp, model.pretrained: no.pth}"), "", "'no.pth' does not exist"),
        (STUDY.replace("psp}", f"psp, {NC_WEIGHTS}}}"), "--licences=permissive", "is cc-by-nc-4.0"),
        (STUDY.replace("split: val", "split: none"), "", "none"),
    ],
)
def test_bad_studies_train_nothing(
    study: tuple[Path, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    setting: str,
    message: str,
) -> None:
    path, settings = study
    path.write_text(text)
    assert call(study_command, path, *settings, *filter(None, [setting])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_runs_of_other_settings_are_refused(
    study: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, settings = study
    assert call(study_command, path, *settings) == 0
    assert call(study_command, path, *settings, "optim.lr=0.5") == 2
    assert "holds another run: optim.lr was" in capsys.readouterr().err
