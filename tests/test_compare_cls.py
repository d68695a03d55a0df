"""Comparing classifiers: tests against their definitions, costs against the publishers', files."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from dataclasses import asdict
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from test_classes import animals  # noqa: F401 - a fixture
from test_classification import ORACLE
from test_train_cls import CONFIG, output_of, small  # noqa: F401 - a fixture
from test_train_seg import call

from benchmarks import cifar
from sceneparse.cli import classify as classify_command
from sceneparse.cli import compare as compare_command
from sceneparse.layers.attention import ATTENTION
from sceneparse.metrics.significance import compare_means, holm
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.report.tables import plain
from sceneparse.runtime.precision import Compute
from sceneparse.studies.costs import count_costs, measure_costs, pareto_front
from sceneparse.studies.seeds import spread_of


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, 6):
        p_values = (generator.random(count) ** 3).tolist()
        sets = chain.from_iterable(combinations(range(count), n) for n in range(1, count + 1))
        tested = [(chosen, len(chosen) * min(p_values[k] for k in chosen)) for chosen in sets]
        expected = [min(1.0, max(p for chosen, p in tested if k in chosen)) for k in range(count)]
        assert holm(p_values) == pytest.approx(expected)
    assert holm([0.01, math.nan, 0.04])[::2] == pytest.approx([0.02, 0.04])


def test_pairs_are_tested_by_welch() -> None:
    a, b = [0.941, 0.944, 0.946], [0.951, 0.949, 0.956, 0.953]
    (found,) = compare_means({"a": a, "b": b})
    va, vb = np.var(a, ddof=1) / 3, np.var(b, ddof=1) / 4
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 3)
    error = math.sqrt(va + vb)
    gap = np.mean(b) - np.mean(a)
    assert found.value == pytest.approx(gap)
    assert found.p_value == pytest.approx(2 * stats.t.sf(gap / error, freedom))
    half = stats.t.ppf(0.975, freedom) * error
    assert (found.low, found.high) == pytest.approx((gap - half, gap + half))
    assert found.separated


# the variance of three times 0.1 is not 0 after rounding
@pytest.mark.parametrize("b", [[0.2], [0.2, 0.2, 0.2]])
def test_without_spread_nothing_is_tested(b: list[float]) -> None:
    (found,) = compare_means({"a": [0.1, 0.1, 0.1], "b": b})
    assert not found.tested
    assert not found.separated
    assert found.value == pytest.approx(0.1)


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_not_tested(lost: float) -> None:
    (found,) = compare_means({"a": [0.1, 0.2], "b": [0.3, lost]})
    assert not found.tested
    assert json.dumps(plain(asdict(spread_of([0.3, lost]))), allow_nan=False).count("null") == 5


def test_pareto_front_is_the_rising_staircase() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        points = [(float(x), float(y)) for x, y in generator.integers(0, 6, (8, 2))]
        front = {points[k] for k in pareto_front(points)}
        stairs, highest = set(), -1.0
        for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
            if gain > highest:
                stairs.add((cost, gain))
                highest = gain
        assert front == stairs


@pytest.mark.parametrize("attention", ATTENTION)
def test_counted_costs_are_the_publishers(shared: Path, attention: str) -> None:
    nets = json.loads((shared / "oracles/cifar_costs.json").read_text())["nets"]
    expected = nets[f"r18_{ORACLE[attention]}"]
    found = count_costs({"model": "resnet18", "num_classes": 10, "attention": attention}, 32)
    assert found["parameters"] == expected["params_10"]
    assert found["macs"] == expected["macs_10"]
    # Written otherwise, these three keep less than the publishers' code does; none keeps more.
    least = 0.7 if attention in {"triplet", "gct", "cbam", "coordinate"} else 1
    ratio = found["saved_bytes"] / expected["saved_act_bytes_per_image"]
    assert least <= ratio <= 1


def test_measured_memory_holds_what_a_step_must_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[measure_costs.__module__], "_SECONDS_PER_ROUND", 0.05)
    arguments = {"model": "resnet20", "num_classes": 10}
    compute, batch = Compute(torch.device("cpu")), 64
    found = measure_costs({"net": arguments}, 32, batch, compute)["net"]
    kept = batch * count_costs(arguments, 32)["saved_bytes"]
    assert kept < found["peak_bytes"] < 4 * kept
    assert found["forward"] > found["training"] > 0


@pytest.fixture
def runs(small: list[str]) -> list[str]:  # noqa: F811
    """Three configurations with 3, 2 and 1 seeds."""
    folders = []
    for attention, seeds in (("none", "0-2"), ("eca", "0-1"), ("strip_pooling", "5")):
        output = output_of(small).with_name(attention)
        settings = [f"attention={attention}", f"seeds={seeds}", f"output={output}"]
        assert call(classify_command, "--config", CONFIG, *small, *settings) == 0
        folders.append(str(output))
    return folders


def test_everything_is_written(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a seed that has not finished, and one that has not begun
    unfinished = resolve_checkpoint(Path(runs[0]) / "seed-2/last") / "meta.json"
    meta = json.loads(unfinished.read_text())
    unfinished.write_text(json.dumps({**meta, "epoch": 2}))
    (Path(runs[0]) / "seed-3").mkdir()
    # a copy that lost its pointers
    for name in ("last", "best"):
        (Path(runs[1]) / "seed-0" / name).unlink()
    # and a configuration none of whose seeds has
    begun = tmp_path / "begun"
    (begun / "seed-0").mkdir(parents=True)
    output = tmp_path / "compared"
    # the baseline comes first, wherever it was named
    assert call(compare_command, *runs[::-1], begun, "--output", output, "--counted") == 0
    printed = capsys.readouterr().out
    assert "none: not finished and skipped: seed-2 (2 of 3 epochs), seed-3 (0 of ? ep" in printed
    assert f"'{begun}': not finished and skipped: seed-0 (0 of ? epochs)" in printed
    assert re.search(
        r"strip_pooling: [-+]\d+\.\d\d points of accuracy over none; not tested", printed
    )

    found = json.loads((output / "compare.json").read_text())
    assert [group["name"] for group in found["groups"]] == ["none", "strip_pooling", "eca"]
    last = [
        json.loads((Path(runs[1]) / f"seed-{k}/metrics.jsonl").read_text().splitlines()[-1])
        for k in (0, 1)
    ]
    eca = found["groups"][2]
    assert eca["accuracy"]["values"] == [record["test_accuracy"] for record in last]
    assert eca["loss"]["mean"] == pytest.approx(np.mean([r["test_loss"] for r in last]))
    assert [len(group["seeds"]) for group in found["groups"]] == [2, 1, 2]
    assert len(found["accuracy"]) + len(found["loss"]) == 6
    # the results file has a row per finished seed
    assert call(cifar, tmp_path / "results.json", *runs) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(row["block"], row["seed"]) for row in rows] == [
        *(("none", 0), ("none", 1)),
        *(("eca", 0), ("eca", 1)),
        ("strip_pooling", 5),
    ]
    for row, record in zip(rows[2:4], last, strict=True):
        assert (row["accuracy"], row["loss"]) == (record["test_accuracy"], record["test_loss"])
        assert (row["epochs"], row["model"]) == (3, "resnet20")
    page = (output / "compare.html").read_text()
    assert "http" not in re.sub(r"data:[^\"]*", "", page)
    assert page.count("<img") == 2
    assert re.search(r">strip_pooling</span></td><td>1</td>", page)
    for name in ("curves.png", "curves.svg", "accuracy_against_cost.png"):
        assert (output / name).stat().st_size > 1000


def test_what_cannot_be_compared_is_refused(
    runs: list[str],
    small: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    none, eca, single = map(Path, runs)
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun/seed-0").mkdir(parents=True)
    (tmp_path / "same").symlink_to(none)
    shutil.copytree(none, tmp_path / "copies")
    shutil.copytree(none / "seed-1", tmp_path / "copies/seed-7")
    shutil.copytree(single, tmp_path / "torn")
    torn = tmp_path / "torn/seed-5/metrics.jsonl"
    torn.write_text(torn.read_text()[:-9])
    shutil.copytree(single, tmp_path / "short")
    short = tmp_path / "short/seed-5/metrics.jsonl"
    short.write_text("".join(short.read_text().splitlines(keepends=True)[:-1]))
    meta_path = resolve_checkpoint(eca / "seed-1/last") / "meta.json"
    meta = json.loads(meta_path.read_text())
    other = tmp_path / "other"
    settings = ["data.size=12", f"output={other}"]
    assert call(classify_command, "--config", CONFIG, *small, *settings) == 0
    cases = [
        ([tmp_path / "empty"], "holds no runs of `sceneparse classify`"),
        ([tmp_path / "nowhere"], "holds no runs of `sceneparse classify`"),
        ([tmp_path / "begun"], "no run is finished"),
        ([none, none], "given twice"),
        ([none, tmp_path / "same"], "given twice"),
        ([tmp_path / "copies"], "seed-1 and seed-7 are runs of one seed, 1"),
        ([none, tmp_path / "torn"], "torn/seed-5/metrics.jsonl: damaged"),
        ([none, tmp_path / "short"], "holds 2 of the 3 epochs of its run"),
        ([none, other], "tested on different images or classes: data.size is 16 and 12"),
        ([none, eca, "--batch", 1], "--batch: must be 2 or more"),
    ]
    changed = {**meta, "config": {**meta["config"], "model": "resnet32"}}
    for content, message in (
        (json.dumps(changed), "different settings: model is resnet20 and resnet32"),
        ("{", "cannot be read as JSON"),
        (json.dumps({**meta, "task": "segmentation"}), "is not a run of `sceneparse classify`"),
    ):
        cases.append(([none, eca], message))
        meta_path.write_text(content)
        check_refused(cases.pop(), tmp_path, capsys)
    for case in cases:
        check_refused(case, tmp_path, capsys)


def check_refused(
    case: tuple[list[object], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = case
    capsys.readouterr()
    output = tmp_path / "refused"
    assert call(compare_command, *arguments, "--output", output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not output.exists()
