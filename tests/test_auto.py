"""`sceneparse auto` as a whole: bad input, interruptions, going further, what it prints."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sceneparse.auto import job as job_module
from sceneparse.auto import steps
from sceneparse.auto.budget import Budget
from sceneparse.auto.candidates import Weights, candidates
from sceneparse.auto.finish import describe_scores
from sceneparse.auto.job import Job, Request
from sceneparse.auto.steps import run_auto
from sceneparse.cli import auto as command
from sceneparse.data.labels import palette
from sceneparse.errors import InputError
from sceneparse.runs.lock import RunLock
from sceneparse.runtime.distributed import Process
from tests.test_auto_first import BACKBONE, save_weights
from tests.test_auto_plan import facts
from tests.test_train_seg import call

CPU = Process(0, 1, torch.device("cpu"))
# Few steps, since a job otherwise fills its time.
SHORT = {"train.steps_per_epoch": 2, "train.epochs": 3, "data.workers": 0}
SMALL = {"model.width": 16, "train.batch_size": 2, **SHORT}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of 64x48 of two classes, without splits."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(10):
        mask = np.zeros((48, 64), np.uint8)
        mask[int(rng.integers(12, 36)) :] = 1
        image = np.clip(90 + 80 * mask[..., None] + rng.normal(0, 20, (48, 64, 3)), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights") / f"{BACKBONE}.safetensors")


def request_for(source: Path, output: Path, weights: Path | str, **changes: Any) -> Request:
    values = {"command": "sceneparse auto", "weights": str(weights), "given": SMALL, **changes}
    return Request(source, output, **values)


def go(request: Request, seconds: float = 40, *, resume: bool = False) -> Job:
    return run_auto(request, Budget(seconds, started=time.time()), CPU, resume=resume)


@pytest.fixture(scope="module")
def done(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job that was planned only, then resumed."""
    output = tmp_path_factory.mktemp("auto") / "job"
    planned = go(request_for(photos, output, weights, plan_only=True))
    assert (output / "plan.yaml").is_file() and not (output / "run").exists()
    job = go(request_for(photos, output, weights), resume=True)
    assert job.record["seconds_used"] > planned.record["seconds_used"]
    return output


def record_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "auto.json").read_text())
    return found


def test_a_planned_job_is_resumed_to_its_report(done: Path) -> None:
    record = record_of(done)
    assert (done / "report.html").stat().st_size > 10_000
    assert sum(record["phases"].values()) <= record["seconds_used"]
    assert {"reading the data", "first rung", "fine-tuning"} <= set(record["phases"])
    chosen = done / record["chosen"]
    assert json.loads((chosen / "eval_val/eval.json").read_text())["mean_iou"] == record["mean_iou"]
    plan = yaml.safe_load((done / "plan.yaml").read_text())
    assert plan["seed"] == 0


def test_a_page_that_is_missing_is_written_in_the_colors_asked_for(
    done: Path, photos: Path, weights: Path
) -> None:
    (done / "data/colors.txt").write_text("1 2 3\n4 5 6\n")
    (done / "report.html").unlink()
    go(request_for(photos, done, weights, palette="safe"), resume=True)
    page = (done / "report.html").read_text()
    names = (done / "data/classes.txt").read_text().splitlines()
    assert "rgb(4, 5, 6)" not in page
    assert f'class="swatch" style="background: rgb{palette(names)[1]}"' in page


def test_a_finished_job_is_not_repeated(
    done: Path, photos: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = record_of(done)
    go(request_for(photos, done, weights), resume=True)
    assert record_of(done) == before
    with pytest.raises(InputError, match=r"another job: --seed was 0, is 1.*began with"):
        go(request_for(photos, done, weights, seed=1), resume=True)
    with pytest.raises(InputError, match=r"is a job of 0\.666667 minutes"):
        go(request_for(photos, done, weights), 60, resume=True)
    with pytest.raises(InputError, match="exists and is not empty; resume its job"):
        go(request_for(photos, done, weights))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("steps", "facts_of"),
        ("steps", "measure"),
        ("steps", "train_first"),
        ("steps", "train"),
        ("finish", "evaluate"),
    ],
)
def test_a_job_that_dies_in_any_phase_is_resumed(
    module: str,
    name: str,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BaseException: as of a process that ends, no error that the job itself could handle."""

    def die(*_: Any, **__: Any) -> None:
        time.sleep(0.2)
        raise KeyboardInterrupt

    output = tmp_path / "job"
    with monkeypatch.context() as patch:
        patch.setattr(f"sceneparse.auto.{module}.{name}", die)
        with pytest.raises(KeyboardInterrupt):
            go(request_for(photos, output, weights))
    used = record_of(output)["seconds_used"]
    assert used >= 0.2
    began = time.time()
    job = go(request_for(photos, output, weights), resume=True)
    assert job.finished
    assert record_of(output)["seconds_used"] == pytest.approx(used + time.time() - began, abs=0.5)


def test_the_seconds_of_a_killed_call_count(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process records nothing more, but the lock shows how long it lived."""
    monkeypatch.setattr(job_module, "_BEAT", 0.05)
    request, budget = request_for(photos, tmp_path / "job", "none"), Budget(40, time.time())
    with job_module.open_job(request, budget, CPU, resume=False):
        time.sleep(1)
    saved = record_of(request.output)["seconds_used"]
    with job_module.open_job(request, Budget(40, time.time()), CPU, resume=True) as job:
        assert saved + 0.9 < job.record["seconds_used"] < saved + 2
        assert job.record["phases"]["calls that were killed"] > 0.9


def test_going_further_keeps_the_better_earlier_model(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    """A learning rate that moves nothing cannot be better; the earlier score is raised by hand."""
    earlier = tmp_path / "earlier"
    shutil.copytree(done, earlier, symlinks=True)
    record = record_of(earlier)
    record["scores"][record["chosen"]] = 0.999
    (earlier / "auto.json").write_text(json.dumps(record))
    output = tmp_path / "more"
    job = go(request_for(earlier, output, "imagenet", given=SHORT))
    assert job.record["chosen"] == "earlier"
    assert "training brought no better model" in job.record["reason"]
    page = (output / "report.html").read_text()
    assert f"sceneparse predict {earlier / record['chosen']} PHOTOS" in page
    assert (output / "eval_val" / "eval.json").is_file()
    # a plain run goes further too, from the score that its checkpoint holds
    again = go(request_for(done / "run", tmp_path / "plain", "imagenet", given=SHORT))
    assert again.record["scores"]["earlier"] == record_of(done)["scores"]["run"]


@pytest.mark.parametrize(
    ("changes", "seconds", "match"),
    [
        ({"given": {"augment.cropp": [1, 1]}}, 40, "augment.cropp: unknown key"),
        ({"given": {"train.batch_size": 0}}, 40, "train.batch_size"),
        ({}, 0.5, r"--time 0s is too short .* at least --time \d+s"),
        ({"weights": "missing.safetensors"}, 40, "does not exist"),
        ({"weights": __file__}, 40, "test_auto.py"),
        ({"given": {"model.backbone": "resnet18"}}, 40, "resnet18|backbone"),
        ({"given": {"model.backbone": "resnet19"}}, 40, "resnet19"),
    ],
)
def test_bad_input_leaves_nothing(
    changes: dict[str, Any], seconds: float, match: str, photos: Path, weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "job"
    values = {"weights": weights, **changes}
    with pytest.raises(InputError, match=match):
        go(request_for(photos, output, **values), seconds)
    assert not output.exists()


def test_other_content_of_the_output_stays(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty; choose another folder with --output"):
        go(request_for(photos, tmp_path, weights), resume=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file"):
        go(request_for(photos, tmp_path / "thesis.txt", weights))


def test_two_jobs_do_not_share_an_output(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(_: RunLock) -> None:
        raise InputError("in use by process 1")

    monkeypatch.setattr(job_module.RunLock, "acquire", in_use)
    with pytest.raises(InputError, match="in use"):
        go(request_for(photos, tmp_path / "job", weights))


def test_a_full_disk_is_one_line(
    photos: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps, "facts_of", fail)
    output = tmp_path / "job"
    assert call(command, photos, "--time", "9h", "--weights", weights, "--output", output) == 2
    full = f"cannot write '{output}': No space left on device; choose another place with --output"
    assert capsys.readouterr().err.endswith(f"{full}\n")
    assert not output.exists()


def test_a_plan_on_stdout_is_yaml_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "job"
    options = ["--time", "100h", "--weights", "none", "--output", output, "--plan-only"]
    assert call(command, photos, *options, "data.workers=0", "model.width=16") == 0
    printed = capsys.readouterr().out
    assert printed == (output / "plan.yaml").read_text()
    assert yaml.safe_load(printed)["model"]["width"] == 16


def test_settings_of_the_user_decide_about_candidates() -> None:
    images = facts(sizes=((360, 480),) * 3)
    some = Weights(["resnet18"], None, "")
    fixed = {"data.resize": {"short": 180}, "augment.crop": [97, 97]}
    (found,) = candidates(images, some, fixed, 16)
    assert (found.long, found.crop) == (240, (97, 97))
    assert {c.long for c in candidates(images, some, {"data.resize.long": 240}, 16)} == {240}
    vit = Weights(["vit_small_patch16_224"], None, "")
    assert all(side % 16 == 0 for c in candidates(images, vit, {}, 16) for side in c.crop)


def test_a_score_on_some_images_says_so() -> None:
    record = {
        "scores": {"run": 0.5, "first": 0.4},
        "facts": {"val_images": 20},
        "first": {"validated": 3},
        "chosen": "run",
    }
    expected = "mean IoU on 20 validation images: fine-tuned 0.5000, first model 0.4000 on 3 of"
    assert describe_scores(record).startswith(expected)


def test_weights_under_other_licences_are_refused_before_training(
    photos: Path, weights: Path, tmp_path: Path
) -> None:
    place = tmp_path / "timm"
    place.mkdir()
    shutil.copy(weights, place / "model.safetensors")
    stated = {"architecture": "convnextv2_atto", "pretrained_cfg": {"tag": "fcmae_ft_in1k"}}
    (place / "config.json").write_text(json.dumps(stated))
    request = request_for(
        photos,
        tmp_path / "job",
        place / "model.safetensors",
        licences="permissive",
        given={**SMALL, "model.backbone": BACKBONE},
    )
    with pytest.raises(InputError, match="--licences permissive refuses"):
        go(request)
    assert not request.output.exists()
