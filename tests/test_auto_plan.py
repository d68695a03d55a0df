"""The plan of `sceneparse auto`: times, candidates, the choice among them, plan.yaml."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sceneparse.auto.budget import Budget, read_time
from sceneparse.auto.candidates import Candidate, Weights, candidates
from sceneparse.auto.facts import DataFacts
from sceneparse.auto.intake import Intake
from sceneparse.auto.measure import Measured
from sceneparse.auto.plan import (
    Choice,
    Timed,
    choose,
    enough_steps,
    first_plan,
    further_plan,
    scheduled,
    sized,
    steps_that_fit,
)
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError

INTAKE = Intake("folder", Path("data/mine"), "train", "val", ("a folder",))
WEIGHTS = Weights(["mobilenetv2_100"], "mobilenetv2.safetensors", "--weights")
# What a candidate should have in 3 minutes.
STEPS = 188


def facts(**changes: Any) -> DataFacts:
    values: dict[str, Any] = {
        "names": ("road", "pole"),
        "train_images": 100,
        "val_images": 20,
        "sizes": ((360, 480), (360, 480), (360, 480)),
        "pixels": (9000, 1000),
        "images": (100, 50),
        "ignored": 0.0,
        "widths": (80.0, 4.0),
        "sided": (),
        "sided_reason": "no class is called left or right",
        "duplicates": 0,
        "twins": 0,
        "looked_at": 100,
        "notes": (),
    }
    return DataFacts(**{**values, **changes})


def candidate(scale: float) -> Candidate:
    return Candidate("mobilenetv2_100", round(480 * scale), (97, 129), scale)


def timed(scale: float, steps: int, seconds: float = 180) -> Timed:
    of = candidate(scale)
    return Timed(of, Measured(0.1, 10, 0.05, 500.0), steps, enough_steps(of, seconds))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("+20m", 1200), ("1h30m", 5400), ("0.5h", 1800)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert read_time(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "20 m", "-5m", "0m", "20m!", "1d"])
def test_wrong_times_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--time takes a time"):
        read_time(text)


def test_a_resumed_budget_counts_what_was_used() -> None:
    now = 1000.0
    budget = Budget(60, started=1000.0, used_before=20, clock=lambda: now)
    with budget.phase("a"):
        now = 1010.0
    assert (budget.used, budget.left, budget.phases) == (30, 30, {"a": 10})


def test_candidates_rise_in_size_and_fit_the_images() -> None:
    found = candidates(facts(), WEIGHTS, {}, 16)
    pixels = [c.crop[0] * c.crop[1] for c in found]
    assert pixels == sorted(set(pixels))
    assert found[-1].long is None
    for c in found:
        assert all(side % 16 == 1 for side in c.crop)
        assert c.crop[0] <= 360 * c.scale and c.crop[1] <= 480 * c.scale


def test_large_photos_are_shrunk_and_tiny_images_are_not() -> None:
    photos = candidates(facts(sizes=((3024, 4032),) * 3), WEIGHTS, {}, 16)
    assert all(c.long is not None and c.long <= 1280 for c in photos)
    tiny = candidates(facts(sizes=((60, 80),) * 3), WEIGHTS, {}, 16)
    assert [c.long for c in tiny] == [None]


def test_the_finest_candidate_with_enough_steps_is_chosen() -> None:
    listed = [timed(0.5, 4 * STEPS), timed(0.7, 2 * STEPS), timed(1.0, STEPS - 1)]
    assert choose(listed, facts())[0].candidate.scale == 0.7


@pytest.mark.parametrize(("seconds", "fitting"), [(180, (675, 345, 205)), (600, (2767, 1414, 840))])
def test_the_size_that_won_on_camvid_is_chosen(seconds: float, fitting: tuple[int, ...]) -> None:
    """Steps that fit by scale, of which the last had the best mean IoU on validation images."""
    listed = [timed(s, n, seconds) for s, n in zip((0.5, 0.7, 1.0), fitting, strict=True)]
    assert choose(listed, facts())[0].candidate.scale == 1.0


def test_a_larger_network_needs_more_time() -> None:
    large = replace(candidate(1.0), larger=True)
    slow = replace(timed(1.0, 400), candidate=large, wanted=enough_steps(large, 180))
    assert choose([timed(1.0, 500), slow], facts())[0].candidate.larger is False
    assert choose([slow, replace(slow, steps_that_fit=700)], facts())[0].candidate.larger


def test_thin_classes_ask_for_finer_images() -> None:
    """A class of 2 pixels must not shrink, if a third of the usual steps fit without."""
    listed = [timed(0.5, 2 * STEPS), timed(1.0, STEPS // 2)]
    thin = facts(widths=(80.0, 2.0))
    assert choose(listed, thin)[0].candidate.scale == 1.0
    assert choose([listed[0], timed(1.0, STEPS // 4)], thin)[0].candidate.scale == 0.5


def test_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="too short"):
        choose([timed(0.5, 0)], facts())


def test_steps_and_validations_fit_into_the_time() -> None:
    measured = Measured(0.2, 10, 0.05, 500.0)
    for seconds in (30.0, 200.0, 2000.0):
        steps, validations = steps_that_fit(measured, seconds, 20)
        used = steps * 0.2 + validations * 20 * 0.05
        assert 0.9 * seconds < used <= seconds
        assert 1 <= validations <= 10


def test_the_plan_is_a_configuration_with_a_reason_per_line(tmp_path: Path) -> None:
    plan = first_plan(INTAKE, facts(), WEIGHTS, "runs/a/run", {"optim.lr": 1e-3})
    plan = sized(plan, candidate(0.5), facts()).but(
        Choice("loss.class_weights", None, "measured"), Choice("optim.lr", 5.0, "not the user's")
    )
    plan = scheduled(plan, timed(0.5, 800), 120, facts(), "the finest")
    path = tmp_path / "plan.yaml"
    path.write_text(plan.text(["a plan"]), encoding="utf-8")
    config = load_config(path, [], SegConfig)
    assert config == plan.config()
    assert config.optim.lr == 1e-3
    assert config.train.minutes == 2
    lines = [x for x in path.read_text().splitlines() if not x.startswith("#") and x[-1] != ":"]
    assert len(lines) == len(plan.choices)
    reasons = [line.partition("  # ")[2] for line in lines]
    assert all(reasons)
    # A number behind every line, but for names, and what the user or the test gave.
    unnumbered = {r for r in reasons if not re.search(r"\d", r)}
    assert unnumbered == {"given by you", "measured", "the finest", facts().sided_reason}
    assert "optim.lr" in {c.setting for c in plan.choices if c.reason == "given by you"}


def test_settings_of_the_user_hold_in_tables_too() -> None:
    given = {"model.head_options.context": "none", "train.batch_size": 2}
    plan = first_plan(INTAKE, facts(), WEIGHTS, "run", given)
    config = plan.but(Choice("train.batch_size", 8, "x")).config(augment__crop=[33, 33])
    assert config.model.head_options == {"fine_strip": True, "context": "none"}
    assert config.train.batch_size == 2


def test_left_and_right_classes_are_not_mirrored() -> None:
    sided = facts(sided=(("left lane", "right lane"),), sided_reason="their names")
    for known, flip in ((facts(), 0.5), (sided, 0.0)):
        assert first_plan(INTAKE, known, WEIGHTS, "run", {}).config().augment.flip == flip


def test_going_further_starts_from_the_best_weights_with_a_lower_rate() -> None:
    plan = scheduled(first_plan(INTAKE, facts(), WEIGHTS, "a", {}), timed(1, 9), 60, facts(), "x")
    further = further_plan(plan.choices, "a/run", "b").config()
    assert (further.model.pretrained, further.output) == ("a/run", "b")
    assert further.optim.lr == plan.config().optim.lr / 2


def test_a_plan_survives_names_that_yaml_would_read_otherwise(tmp_path: Path) -> None:
    strange = replace(INTAKE, root=tmp_path / "# a: {b}", train_split="off")
    plan = first_plan(strange, facts(), WEIGHTS, "run", {})
    assert yaml.safe_load(plan.text([]))["data"]["root"] == str(tmp_path / "# a: {b}")
