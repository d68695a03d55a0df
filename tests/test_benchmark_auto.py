"""The benchmark of `sceneparse auto`: nobody sees held-out images, regret, runs made once."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks import auto, auto_data, auto_runs
from benchmarks import train as train_steps
from benchmarks.auto import Finished, entries_of, plan_text, report
from benchmarks.auto_data import SETS, Prepared, prepare
from benchmarks.auto_runs import ROWS, Speed, Task, hand_run
from benchmarks.peers_runs import Plan
from sceneparse.runtime.distributed import Process
from tests.test_train_seg import call

SIZE = (48, 64)
CPU = Process(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images in the layouts of CamVid, CrackForest and the membranes."""
    root, generator = tmp_path_factory.mktemp("packs"), np.random.default_rng(0)
    counts = {"camvid/train": 8, "camvid/val": 4, "camvid/test": 3, "crackforest": 38}
    for place, count in {**counts, "membrane": 21}.items():
        is_camvid = place.startswith("camvid")
        values = np.array([*range(11), 255] if is_camvid else [0, 255], np.uint8)
        masks = root / place / ("labels" if is_camvid else "masks")
        masks.mkdir(parents=True)
        (root / place / "images").mkdir()
        for number in range(count):
            image = generator.integers(0, 256, (*SIZE, 3), np.uint8)
            cv2.imwrite(str(root / place / f"images/{number}.png"), image)
            cv2.imwrite(str(masks / f"{number}.png"), generator.choice(values, SIZE))
    return root


@pytest.fixture(scope="module")
def prepared(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    work = tmp_path_factory.mktemp("work")
    return {name: prepare(name, packs, work) for name in SETS}


def contents(*folders: Path) -> set[str]:
    """Return the checksums of the images in folders."""
    files = [file for folder in folders for file in folder.rglob("images/*")]
    found = {sha256(file.read_bytes()).hexdigest() for file in files}
    assert len(found) == len(files) > 0
    return found


@pytest.mark.parametrize("name", SETS)
def test_held_out_images_are_seen_by_nobody(name: str, prepared: dict[str, Prepared]) -> None:
    data = prepared[name]
    given, held_out = contents(data.given), contents(data.held_out)
    assert not given & held_out
    assert contents(data.hand) == given
    assert len(held_out) == len(data.open("test"))
    assert len(given) == len(data.open("train")) + len(data.open("val"))
    assert data.open("test").table.names == data.open("train").table.names


def test_sizes_of_the_datasets(prepared: dict[str, Prepared]) -> None:
    sizes = {name: [len(data.open(s)) for s in ("train", "val", "test")] for name, data in
             prepared.items()}  # fmt: skip
    assert sizes == {
        "camvid": [8, 4, 3],
        "camvid60": [8, 4, 3],
        "crackforest": [7, 3, 28],
        "membrane": [8, 4, 9],
        "scenes": [64, 16, 60],
    }


@pytest.mark.parametrize("name", ["crackforest", "membrane"])
def test_auto_gets_black_and_white_masks_without_splits(
    name: str, prepared: dict[str, Prepared]
) -> None:
    given = prepared[name].given
    assert sorted(path.name for path in given.iterdir()) == ["images", "masks"]
    masks = [read_grey(path) for path in sorted((given / "masks").iterdir())]
    assert {*np.unique(masks)} == {0, 255}
    _, mask, sample = prepared[name].open("train")[0]
    np.testing.assert_array_equal(mask, read_grey(given / "masks" / f"{sample}.png") == 255)


def read_grey(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.uint8)


def test_the_last_slices_are_held_out(prepared: dict[str, Prepared]) -> None:
    names = {path.stem for path in prepared["membrane"].held_out.rglob("images/*")}
    assert names == {str(number) for number in range(12, 21)}


def test_only_the_road_is_left(packs: Path, prepared: dict[str, Prepared]) -> None:
    dataset = prepared["camvid60"].open("test")
    assert dataset.table.names == ["background", "road"]
    for _, mask, name in dataset:
        raw = read_grey(packs / "camvid/test/labels" / f"{name}.png")
        expected = np.where(raw == 255, 255, np.where(raw == 3, 1, 0))
        np.testing.assert_array_equal(mask, expected)


def test_the_images_of_the_road_are_spread_in_time(monkeypatch: pytest.MonkeyPatch, packs: Path,
                                                   tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setattr(auto_data, "_ROAD_TRAIN", 3)
    data = prepare("camvid60", packs, tmp_path)
    names = sorted(path.stem for path in (data.given / "train/images").iterdir())
    assert names == ["0", "4", "7"]


@pytest.mark.parametrize("name", SETS)
def test_preparation_repeats_itself(
    name: str, packs: Path, prepared: dict[str, Prepared], tmp_path: Path
) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    again = prepare(name, packs, tmp_path)
    assert files(again.folder) == files(prepared[name].folder)


def test_recipes_fit_the_images(prepared: dict[str, Prepared]) -> None:
    plan = Plan("data", "weights", (), 1, Path("place"), CPU, example_size=(256, 384))
    crops, losses = {}, {}
    for row in ("camvid_mobilenet", "own_data", "smp_unet:ours", "smp_deeplabv3plus:ours"):
        for name in ("camvid", "scenes"):
            config = hand_run(Task(name, 3, 1, row), prepared[name], plan, 7).config
            train = config.train
            assert (config.seed, train.epochs, train.steps_per_epoch) == (1, 1, 7)
            crops[row, name], losses[row, name] = config.augment.crop, config.loss.class_weights
    assert crops == {
        ("camvid_mobilenet", "camvid"): (257, 385),  # 289x385 does not fit 256x384
        ("camvid_mobilenet", "scenes"): (257, 385),
        ("own_data", "camvid"): (193, 257),
        ("own_data", "scenes"): (193, 257),
        ("smp_unet:ours", "camvid"): (256, 384),
        ("smp_unet:ours", "scenes"): (192, 256),
        ("smp_deeplabv3plus:ours", "camvid"): (256, 384),
        ("smp_deeplabv3plus:ours", "scenes"): (192, 256),
    }
    assert [key for key, rule in losses.items() if isinstance(rule, list)] == [
        ("camvid_mobilenet", "camvid"),
        ("smp_unet:ours", "camvid"),
        ("smp_deeplabv3plus:ours", "camvid"),
    ]
    assert {rule for rule in losses.values() if not isinstance(rule, list)} == {"auto"}


def test_steps_fit_into_the_minutes() -> None:
    speed = Speed(start=4.0, step=10.0, validation=6.0, machine="here")
    assert [speed.steps(seconds) for seconds in (5, 29.9, 30.1, 60)] == [1, 1, 2, 5]


def finished(row: str, val: float, held_out: float, seconds: float = 180, **cell: Any) -> Finished:
    task = Task(**{"data": "camvid", "minutes": 3.0, "seed": 0, **cell}, row=row)
    return Finished(task, val, held_out, seconds, 30, {"machine": "here"})


CELL = [
    finished("auto", 0.1, 0.60, 190),
    finished("camvid_mobilenet", 0.7, 0.61, 181),
    finished("own_data", 0.6, 0.90, 175),  # better held out, but not on validation
    finished("smp_unet:plain", 0.8, 0.62, 140),
    finished("smp_unet:ours", 0.4, 0.99),
]


def test_recipes_are_chosen_on_validation() -> None:
    other = [replace(run, task=replace(run.task, seed=1)) for run in CELL]
    other[0] = replace(other[0], held_out=0.65, seconds=200)
    entries = entries_of([*CELL, *other])
    keys = ("data", "minutes", "seed", "auto", "hand", "smp", "seconds_used")
    assert [[entry[key] for key in keys] for entry in entries] == [
        ["camvid", 3.0, 0, 0.60, 0.61, 0.62, 190],
        ["camvid", 3.0, 1, 0.65, 0.61, 0.62, 200],
    ]
    assert [entry["regret"] for entry in entries] == pytest.approx([0.02, -0.03])
    assert entries[0]["rows"]["own_data"]["held_out"] == 0.9
    assert entries[0]["missing"] == ["smp_deeplabv3plus:plain", "smp_deeplabv3plus:ours"]
    text = report(entries)
    assert "mean regret -0.50 points of mean IoU over 2 comparisons, largest +2.00" in text
    assert "auto kept its time within 10% in 1 of 2" in text
    line = next(line for line in text.splitlines() if line.startswith("camvid")).split()
    assert line[3:9] == ["0.6000", "0.6100", "0.6200", "+2.00", "190", "106%"]
    assert line[9:] == ["camvid_mobilenet", "smp_unet:plain", "4", "of", "6"]


def test_a_comparison_waits_for_all_three() -> None:
    for left_out in ("auto", "hand", "smp"):
        (entry,) = entries_of([run for run in CELL if ROWS[run.task.row] != left_out])
        assert entry["regret"] is None and entry[left_out] is None
        assert "no regret yet" in report([entry])
    assert "no regret yet" in report([])


def test_plan_adds_what_runs_took_beside_their_minutes() -> None:
    tasks = [Task("camvid", 3, 1, "auto"), Task("scenes", 10, 0, "own_data")]
    text = plan_text(tasks, 7, CELL)
    assert text.splitlines() == [
        "camvid:3:1:auto  3.5 min",
        "scenes:10:0:own_data  11.0 min",
        "2 of 7 runs are left: about 0.2 h",
    ]


# Stands for sceneparse: logs its arguments, writes what `auto` and `evaluate` do.
STUB = """
import json, sys
from pathlib import Path
import numpy as np
arguments = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
output = Path(arguments[arguments.index("--output") + 1])
output.mkdir(parents=True)
if arguments[0] == "evaluate":
    by_image = np.array([[[3, 4], [5, 5], [5, 5]]])
    np.savez(output / "counts.npz", by_image=by_image, images=["0"], classes=["a", "b"])
    written = {{"protocol": "whole", "absent_class_rule": "cityscapes"}}
    (output / "eval.json").write_text(json.dumps(written))
elif arguments[-2:] == ["--seed", "1"]:
    sys.exit("error: no luck")
else:
    written = {{"chosen": "first", "scores": {{"first": 0.25, "run": 0.5}}}}
    (output / "auto.json").write_text(json.dumps(written))
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put STUB in the place of sceneparse; return the file of its calls."""
    log, stub = tmp_path / "calls.jsonl", tmp_path / "stub.py"
    stub.write_text(STUB.format(log=str(log)), encoding="utf-8")
    monkeypatch.setattr(auto_runs, "SCENEPARSE", [sys.executable, str(stub)])
    return log


@pytest.fixture
def command(packs: Path, tmp_path: Path) -> list[object]:
    weights = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, weights)
    return ["--packs", packs, "--weights", weights, "--work", tmp_path / "work"]


def test_finished_runs_are_skipped(
    command: list[object], calls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = tmp_path / "work/runs/membrane-3-0-auto/auto"  # of a run that was killed
    unfinished.mkdir(parents=True)
    command += ["--minutes", 3, "--only", "membrane:3:0:auto", "scenes:3:0:auto"]
    written = tmp_path / "entries.json"
    assert call(auto, *command, "--json", written) == 0
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    given, *_ = made = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [arguments[0] for arguments in made] == ["auto", "evaluate"] * 2
    place = tmp_path / "work"
    assert given[1:4] == [str(place / "data/membrane/given"), "--time", "3m"]
    assert given[-2:] == ["--seed", "0"]
    assert made[1][1:4] == [
        str(place / "runs/membrane-3-0-auto/auto/first"),
        "--data",
        str(place / "data/membrane/held_out"),
    ]
    assert call(auto, *command, "--plan") == 0
    assert "0 of 2 runs are left" in capsys.readouterr().out
    assert call(auto, *command) == 0
    assert len(calls.read_text().splitlines()) == 4
    (place / "rows/membrane-3-0-auto.json").unlink()
    assert call(auto, *command) == 0
    assert len(calls.read_text().splitlines()) == 6
    entry = json.loads(written.read_text())[0]
    # IoU of 3 of 7 pixels and 4 of 6
    assert entry["auto"] == pytest.approx((3 / 7 + 4 / 6) / 2)
    row = entry["rows"]["auto"]
    assert (row["val"], row["chosen"]) == (0.25, "first")
    assert {"machine", "commit", "torch", "date"} <= {*row}
    assert 0 < entry["seconds_used"] == row["seconds_used"] < 60


def test_a_failed_run_does_not_stop_the_others(
    command: list[object], calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command += ["--minutes", 3, "--seeds", 1, 0, "--only", "membrane:*:auto"]
    assert call(auto, *command) == 2
    shown = capsys.readouterr()
    assert "`sceneparse auto` failed with exit code 1" in shown.out
    assert "error: no luck" in shown.out
    assert "1 of 2 runs are finished" in shown.out
    assert "1 runs failed: membrane:3:1:auto" in shown.err
    assert len(calls.read_text().splitlines()) == 3


@pytest.mark.slow
def test_hand_recipes_are_trained_and_scored(
    packs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="needs SMP, in extra dev")
    for module in (train_steps, auto_runs):
        monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr(auto_runs, "_MEASURED", 0)
    torch.manual_seed(0)
    weights, work = tmp_path / "mobilenetv2_100.safetensors", tmp_path / "work"
    save_file(timm.create_model("mobilenetv2_100").state_dict(), weights)
    rows = ["membrane:*:own_data", "membrane:*:smp_unet:plain"]
    command = ["--packs", packs, "--weights", weights, "--work", work, "--minutes", 0.001]
    assert call(auto, *command, "--seeds", 0, "--only", *rows) == 0
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    ours, smp = (json.loads(path.read_text()) for path in sorted(work.glob("rows/*.json")))
    assert [ours["row"], smp["row"]] == ["own_data", "smp_unet:plain"]
    assert [ours["crop"], smp["crop"]] == [[49, 65], [32, 64]]
    for row in (ours, smp):
        assert (row["steps"], row["weights"]) == (1, "last")
        assert 0 < row["val"] < 0.7 and 0 < row["held_out"] < 0.7


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--weights", "missing.safetensors"], "'missing.safetensors' does not exist"),
        (["--packs", "missing"], "'missing/membrane' does not exist"),
        (["--work", "runs/auto"], "is in the checkout"),
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--seeds", "-1"], "--seeds must be numbers from 0"),
        (["--only", "camvit:*"], "no run is named 'camvit:*'"),
        (["--json", "missing/auto.json"], "cannot write 'missing/auto.json'"),
    ],
)
def test_bad_input_makes_no_run(
    command: list[object],
    calls: Path,
    capsys: pytest.CaptureFixture[str],
    changed: list[str],
    message: str,
) -> None:
    assert call(auto, *command, "--only", "membrane:*:auto", *changed) == 2
    assert message in capsys.readouterr().err
    assert not calls.exists()


def test_smp_is_needed_for_its_rows(
    command: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "find_spec", lambda name: None)
    assert call(auto, *command) == 2
    assert "segmentation_models.pytorch is not installed" in capsys.readouterr().err
