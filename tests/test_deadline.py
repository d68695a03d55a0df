"""Runs of a number of minutes, and epochs of a number of steps."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from sceneparse.cli import train as train_command
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.sampling import SAMPLING, EpochSampler
from sceneparse.errors import InputError, Preempted
from sceneparse.models.stored import resolve_checkpoint
from sceneparse.runs.checkpoint import read_training_state
from sceneparse.runtime.distributed import Process
from sceneparse.training.deadline import Forecast, Pace
from sceneparse.training.optim import SCHEDULES, Schedule, schedule_position
from sceneparse.training.run import Training, train
from sceneparse.training.segmentation import prepare_training
from sceneparse.training.summary import summary_of
from tests.conftest import RunCommand
from tests.processes import assert_same_state
from tests.test_forged_checkpoints import forge, torch_bytes
from tests.test_train_seg import QUICKSTART, call, folder_of


@dataclass
class Machine:
    """A clock that only the steps and validations of a run move; speeds change after some steps.

    `slower`: steps, each with the factor of all times from there on. `stop_at`: a step during
    which a signal arrives.
    """

    slower: dict[int, float] = field(default_factory=dict)
    step: float = 1.0
    validation: float = 3.0
    now: float = 1000.0
    steps: int = 0
    stop_at: int = -1

    def read(self) -> float:
        return self.now

    @property
    def factor(self) -> float:
        return next((f for start, f in reversed(self.slower.items()) if self.steps >= start), 1.0)

    def run(self, training: Training) -> Training:
        """Train by this clock."""
        forward, validate = training.forward, training.validate

        def timed(model: nn.Module, images: torch.Tensor) -> Any:
            if model.training:
                self.now += self.step * self.factor
                self.steps += 1
                if self.steps == self.stop_at:
                    training.stop.name = "SIGTERM"
            return forward(model, images)

        def validated(model: nn.Module) -> Any:
            self.now += self.validation * self.factor
            return validate(model)

        training.forward, training.validate, training.clock = timed, validated, self.read
        train(training)
        return training


def prepared(settings: list[str], **earlier: Any) -> Training:
    config = load_config(QUICKSTART, settings, SegConfig)
    return prepare_training(config, Process(0, 1, torch.device("cpu")), **earlier)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture
def short(tiny: list[str]) -> list[str]:
    """Two steps an epoch, which take 2 s by a Machine."""
    return [*tiny, "train.amp=off", "train.steps_per_epoch=2", "train.batch_size=2"]


def test_a_machine_that_slows_down_ends_in_time(short: list[str]) -> None:
    machine = Machine(slower={16: 3.0}, validation=1.0)
    # at the old speed it would take 65 s
    settings = [*short, "train.epochs=30", f"train.minutes={66 / 60}", "eval.every=6"]
    training = machine.run(prepared(settings))
    assert 0.9 * 66 <= machine.now - 1000 <= 1.1 * 66
    assert training.position.used == pytest.approx(machine.now - 1000)
    assert 10 < training.last_epoch < 30
    assert training.last_epoch % 6
    folder = folder_of(short)
    validated = [record["epoch"] for record in records(folder, "val")]
    # the first one once a tenth of the time is over
    assert validated == [4, *range(6, training.last_epoch, 6), training.last_epoch]
    changes = records(folder, "replan")
    assert changes[0]["epochs_before"] == 30
    assert changes[-1]["epochs_after"] == training.last_epoch
    assert all(b["epochs_before"] == a["epochs_after"] for a, b in itertools.pairwise(changes))
    rates = [record["lr"] for record in records(folder, "train")]
    assert sorted(rates, reverse=True) == rates
    # the last step moves what remains, as it does without a limit
    last = training.stepper.bends[-1]
    assert last[1] == training.steps_done == training.stepper.schedule.last_epoch
    assert training.stepper.schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-9)
    printed = summary_of(training, score="mean IoU", network="n", pretrained=None)
    assert f" of {training.last_epoch} (checkpoint best)" in printed["best"]
    assert "of 1m06s" in printed["trained"]


def used_by(seconds: Callable[[int], float], *, limit: float, most: int, every: int) -> float:
    """Return the seconds of a run whose epoch i takes seconds(i), planned as runs are."""
    pace, used, done, planned, changes = Pace(), 0.0, 0, most, 0
    while done < planned:
        pace.measure("step", seconds(done) / 5)
        used, done = used + seconds(done), done + 1
        for due in (done % every == 0, done == planned and done % every > 0):
            if due:
                used += 2.0
                pace.measure("validation", 2.0)
            if done < planned:
                known = Pace(pace.step, pace.validation or 1.0)
                forecast = Forecast(used, done, steps=5, every=every, pace=known)
                before, planned = planned, forecast.last_epoch(limit, planned=planned, most=most)
                changes += planned != before
    assert changes < 25
    return used


MACHINES: dict[str, Callable[[int], float]] = {
    "steady": lambda epoch: 5.0,
    "slower": lambda epoch: 5.0 if epoch < 40 else 15.0,
    "faster": lambda epoch: 15.0 if epoch < 15 else 5.0,
    "slow start": lambda epoch: 40.0 if epoch == 0 else 5.0,
    "hiccup": lambda epoch: 50.0 if epoch == 30 else 5.0,
    "noisy": lambda epoch: float(np.random.default_rng(epoch).uniform(3, 9)),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("every", [1, 7, 10_000])
@pytest.mark.parametrize("most", [90, 10**6])
def test_every_machine_ends_in_time(machine: str, every: int, most: int) -> None:
    assert 375 <= used_by(MACHINES[machine], limit=400, most=most, every=every) <= 405


def test_the_epochs_that_fit_are_those_of_a_count() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        done, every, steps = (int(n) for n in generator.integers(1, 9, 3))
        pace = Pace(*generator.uniform(0.1, 3, 3))
        limit, most = float(generator.uniform(0, 300)), done + int(generator.integers(1, 40))
        fitting = done
        for last in range(done + 1, most + 1):
            used = 10 + pace.saving
            for epoch in range(done + 1, last + 1):
                used += steps * pace.step + pace.saving
                used += pace.validation * (epoch % every == 0 or epoch == last)
            fitting = last if used <= limit else fitting
        forecast = Forecast(10.0, done, steps, every, pace)
        assert forecast.fitting(limit, most) == fitting


@pytest.mark.parametrize("bends", [[(10, 40)], [(10, 40), (25, 26)], [(0, 7), (3, 90), (80, 300)]])
def test_the_schedule_moves_evenly_to_the_new_end(bends: list[tuple[int, int]]) -> None:
    steps, place, end = 100, 0.0, 100
    for step in range(bends[-1][1] + 1):
        assert schedule_position(step, steps, bends) == pytest.approx(place)
        end = dict(bends).get(step, end)
        place += (steps - place) / max(end - step, 1)  # an equal share of what remains
    assert schedule_position(bends[-1][1], steps, bends) == pytest.approx(steps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_bends_every_rate_stays_as_it_was(name: str) -> None:
    schedule = Schedule(name, 97, milestones=[40, 60])
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    attached = schedule.attach(optimizer)
    for step in range(98):
        assert attached.get_last_lr() == [0.3 * SCHEDULES[name](step, schedule)]
        optimizer.step()
        attached.step()


@pytest.mark.fault(39)
def test_interrupted_after_a_change_of_plan_equals_uninterrupted(
    short: list[str], tmp_path: Path
) -> None:
    settings = [*short, "train.epochs=40", "train.minutes=0.5", "eval.every=2", "train.ema=0.9"]
    whole = Machine().run(prepared([*settings, f"output={tmp_path / 'whole'}"]))
    assert whole.last_epoch == 8
    own = [*settings, f"output={tmp_path / 'parts'}"]
    for before, stop in ((0, 7), (7, 10)):  # in the middle of an epoch, and at the end of one
        with pytest.raises(Preempted):
            Machine(steps=before, stop_at=stop).run(prepared(own, resume=before > 0))
    parts = Machine().run(prepared(own, resume=True))
    assert parts.position.replans == whole.position.replans
    assert parts.position.used == whole.position.used
    assert_same_state(parts.folder, whole.folder)
    for kind in ("replan", "train", "val"):
        ours, theirs = (
            [{k: v for k, v in r.items() if k not in CLOCK} for r in records(run.folder, kind)]
            for run in (parts, whole)
        )
        assert ours == theirs


CLOCK = {"seconds", "images_per_second"}


def test_minutes_can_be_raised_and_steps_per_epoch_cannot(
    short: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = [*short, "train.epochs=12", "eval.every=50"]
    with pytest.raises(Preempted):
        Machine(stop_at=3).run(prepared([*settings, "train.minutes=0.2"]))
    more = [*settings, "train.minutes=0.4"]
    with pytest.raises(InputError, match=r"train\.minutes was 0\.2, is 0\.4.*--accept-changes"):
        prepared(more, resume=True)
    with pytest.raises(InputError, match=r"another run: train\.steps_per_epoch was 2, is 3"):
        prepared([*more, "train.steps_per_epoch=3"], resume=True, accept_changes=True)
    training = Machine().run(prepared(more, resume=True, accept_changes=True))
    plans = [(plan.epochs_before, plan.epochs_after) for plan in training.position.replans]
    assert plans == [(12, 3), (3, 9)]
    assert training.position.used <= 24
    done = prepared([*settings, "train.minutes=null"], resume=True, accept_changes=True)
    assert done.finished
    assert "the run ended after epoch 9, and its learning rate with it" in caplog.text
    done.lock.release()


def test_a_first_epoch_that_takes_all_the_time_is_said(
    short: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    training = Machine(step=50.0).run(prepared([*short, "train.minutes=0.5"]))
    assert (training.position.epoch, training.finished) == (1, True)
    (warned,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warned == (
        "only the first epoch fits: it took 1m43s, train.minutes=0.5 allows 30s; "
        "train.steps_per_epoch, now 2, makes shorter epochs"
    )
    assert len(records(training.folder, "val")) == 1


def test_all_processes_end_together(short: list[str], run_command: RunCommand) -> None:
    settings = [*short, "train.epochs=1000", "train.minutes=0.05", "eval.every=1000"]
    trained = run_command("train", "--config", QUICKSTART, *settings, processes=2)
    assert trained.returncode == 0, trained.stderr
    validated = records(folder_of(short), "val")[-1]
    last = records(folder_of(short), "replan")[-1]
    assert validated["epoch"] == last["epochs_after"] < 1000
    assert f"epoch {validated['epoch']}/{validated['epoch']}  " in trained.stderr


COUNTS = np.random.default_rng(0).integers(0, 50, (11, 4))


@pytest.mark.fault(39)
@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize(("batch_size", "steps"), [(4, 1), (4, 9), (24, 3)])
def test_epochs_of_steps_are_parts_of_endless_passes(
    sampling: str, batch_size: int, steps: int
) -> None:
    """Fractions of a pass, many passes, and batches of more images than there are."""
    generators = (np.random.default_rng((5, number)) for number in itertools.count())
    orders = (SAMPLING[sampling](generator, COUNTS) for generator in generators)
    draws = (
        (number, index, None if classes is None else classes[place])
        for number, (indices, classes) in enumerate(orders)
        for place, index in enumerate(indices)
    )
    expected = list(itertools.islice(draws, 6 * steps * batch_size))
    found = []
    for epoch, rank in itertools.product(range(6), range(2)):
        sampler = EpochSampler(
            len(COUNTS),
            batch_size,
            sampling=sampling,
            counts=COUNTS,
            steps_per_epoch=steps,
            accumulate=2,
            seed=5,
            rank=rank,
            world_size=2,
        )
        sampler.start_at(epoch, 0)
        pieces = list(sampler)
        found += [(epoch, 2 * number + rank, piece) for number, piece in enumerate(pieces)]
        for step in range(steps + 1):
            sampler.start_at(epoch, step)
            assert list(sampler) == pieces[2 * step :]
    ordered = [draw for _, _, piece in sorted(found, key=lambda part: part[:2]) for draw in piece]
    assert [(draw.epoch, draw.index, draw.wanted_class) for draw in ordered] == expected
    assert len({(draw.epoch, draw.index, draw.repeat) for draw in ordered}) == len(ordered)
    if sampling == "uniform":
        counts = Counter(draw.index for draw in ordered)
        assert max(counts.values()) - min(counts[index] for index in range(len(COUNTS))) <= 1


def test_late_epochs_need_their_own_passes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = SAMPLING["uniform"]
    monkeypatch.setitem(SAMPLING, "uniform", lambda *args: drawn.append(1) or original(*args))
    sampler = EpochSampler(10, 4, steps_per_epoch=1000)
    sampler.start_at(10**9, 990)  # 40 draws, after 4 * 10**12
    assert len(list(sampler)) == 10
    assert len(drawn) <= 5


def test_a_stream_of_a_stream_is_refused(
    short: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(train_command, "--config", QUICKSTART, *short, "data.stream=true") == 2
    error = capsys.readouterr().err
    assert "data.stream has no effect; set data.stream: false" in error
    assert error.count("\n") == 1
    assert not folder_of(short).exists()


@pytest.mark.fault(39)
def test_a_checkpoint_of_an_earlier_version_goes_on_exactly(
    tiny: list[str], tmp_path: Path
) -> None:
    """It knows neither the time of validations nor changes of plan."""
    settings = [*tiny, "train.amp=off"]
    whole = Machine().run(prepared([*settings, f"output={tmp_path / 'whole'}"]))
    own = [*settings, f"output={tmp_path / 'parts'}"]
    with pytest.raises(Preempted):
        Machine(stop_at=4).run(prepared(own))
    folder = resolve_checkpoint(tmp_path / "parts/last")
    state = read_training_state(folder)
    for name in ("used", "pace", "replans"):
        del state["position"][name]
    del state["stepper"]["schedule"]["bends"]
    state["position"]["seconds"] = 77.0
    forge(tmp_path / "parts", "training.pt", torch_bytes(state))
    parts = Machine().run(prepared(own, resume=True))
    assert_same_state(parts.folder, whole.folder)
    assert parts.position.used == 77 + 2 + 3  # two steps and a validation
