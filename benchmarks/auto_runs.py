"""The runs of the benchmark of `sceneparse auto`: auto itself, and recipes chosen by hand.

A hand recipe trains for as many steps as fit into the minutes, by its speed, which is measured once
on the CPU and stored, so that its training may share the machine with other work, or use a GPU.
Its minutes hold preparation, training and one validation after the last step; those of auto hold
the whole command, from its imports to its report. The hand recipes' imports, the measuring of their
speed and the thinking of a person are not counted. Their last weights are scored.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from timeit import timeit
from typing import Any

import torch

from benchmarks.auto_data import Prepared
from benchmarks.peers_runs import PEERS, Plan, Run, load_network, nearest_multiple, prepare
from benchmarks.peers_runs import Row as Recipe
from benchmarks.train import STEPS, Steps
from sceneparse.config.loading import load_config
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError, refusing
from sceneparse.evaluation.result import read_evaluation
from sceneparse.files import MAX_DESCRIPTION, read_json, read_text
from sceneparse.inference.predictor import Predictor
from sceneparse.report.tables import write_json
from sceneparse.runs.checkpoint import newest_intact
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.versions import describe_device
from sceneparse.studies.segmentation import write_scores
from sceneparse.training.run import train

SCENEPARSE = [sys.executable, "-m", "sceneparse"]
_CHECKOUT = Path(__file__).parents[1]
# What was compared -> who made it: auto, our recipes by hand, or networks of SMP by hand.
ROWS = {
    "auto": "auto",
    "camvid_mobilenet": "hand",
    "own_data": "hand",
    **{f"{name}:{recipe}": "smp" for name in PEERS for recipe in ("plain", "ours")},
}
# The crop of SMP's example, and what the sides of its images are multiples of.
_EXAMPLE_CROP, _MULTIPLE = 320, 32
CPU = Process(0, 1, torch.device("cpu"))
# Steps of the run whose speed is measured, which is never finished.
_ENDLESS = 100_000
# Least seconds of training steps that are measured.
_MEASURED = 5.0
# Times its minutes after which auto is stopped.
_PATIENCE = 3
# What a log may hold.
_MAX_LOG = 2**26


@dataclass(frozen=True)
class Task:
    """A run to make: a row of ROWS on a dataset, for some minutes and with a seed."""

    data: str
    minutes: float
    seed: int
    row: str

    def __str__(self) -> str:
        return f"{self.data}:{self.minutes:g}:{self.seed}:{self.row}"

    @property
    def name(self) -> str:
        """Its name as a file."""
        return str(self).replace(":", "-")


@dataclass(frozen=True)
class Speed:
    """Seconds of a hand recipe before it trains at full speed, per step, and per validation.

    `machine`: where they were measured.
    """

    start: float
    step: float
    validation: float
    machine: str

    def seconds(self, steps: int) -> float:
        """Return the seconds of a run of some steps."""
        return self.start + steps * self.step + self.validation

    def steps(self, seconds: float) -> int:
        """Return how many steps fit into some seconds, at least one."""
        return max(int((seconds - self.start - self.validation) / self.step), 1)


def carry_out(
    task: Task, prepared: Prepared, place: Path, weights: Path, process: Process
) -> dict[str, Any]:
    """Make a run in an empty folder; return its scores, 0..1, its seconds, and what it trained.

    Raises InputError if `sceneparse auto` fails.
    """
    if ROWS[task.row] == "auto":
        return _auto(task, prepared, place, weights)
    return _by_hand(task, prepared, place, weights, process)


def _auto(task: Task, prepared: Prepared, place: Path, weights: Path) -> dict[str, Any]:
    """Run `sceneparse auto` as its user does, and evaluate the parser that it chose."""
    output, scores = place / "auto", place / "eval_test"
    command = ["auto", prepared.given, "--time", f"{task.minutes:g}m", "--weights", weights]
    command += ["--output", output, "--seed", task.seed]
    seconds = _call(command, place / "auto.log", _PATIENCE * 60 * (task.minutes + 1))
    path = output / "auto.json"
    written = read_json(path, MAX_DESCRIPTION)
    with refusing(path, "is not a record of `sceneparse auto`"):
        chosen = str(written["chosen"])
        val = float(written["scores"][chosen])
    command = ["evaluate", output / chosen, "--data", prepared.held_out, "--split", "test"]
    _call([*command, "--output", scores], place / "evaluate.log")
    held_out = read_evaluation(scores).mean_iou
    return {"val": val, "held_out": held_out, "seconds_used": seconds, "chosen": chosen}


def _call(arguments: list[Any], log: Path, limit: float | None = None) -> float:
    """Run a command of sceneparse, its output in a file; return its seconds of wall time.

    Raises InputError if it fails, or runs over `limit` seconds.
    """
    command = [*SCENEPARSE, *map(str, arguments)]
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        try:
            done = subprocess.run(  # noqa: S603 - our own command
                command,
                cwd=_CHECKOUT,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"`sceneparse {arguments[0]}` ran over {limit:.0f} s") from error
    if done.returncode:
        last = read_text(log, _MAX_LOG).strip().splitlines()[-1:]
        said = f": {last[0]}" if last else ""
        raise InputError(
            f"`sceneparse {arguments[0]}` failed with exit code {done.returncode}, see {log}{said}"
        )
    return time.perf_counter() - start


def _by_hand(
    task: Task, prepared: Prepared, place: Path, weights: Path, process: Process
) -> dict[str, Any]:
    """Train a hand recipe for the minutes, and score its last weights."""
    plan = plan_of(prepared, place, weights, process)
    speed = stored_speed(task, prepared, plan)
    steps = speed.steps(60 * task.minutes)
    run = hand_run(task, prepared, plan, steps)
    train(prepare(plan, run))
    saved = newest_intact(run.folder)
    assert saved is not None  # the run has ended
    predictor = Predictor(load_network(plan, run, saved), device=str(process.device), amp="off")
    scores = place / "eval_test"
    workers = run.config.data.workers
    write_scores(
        predictor, saved, prepared.open("test"), process, scores, workers=workers, facts={}
    )
    shutil.rmtree(run.folder / "checkpoints")
    return {
        "val": float(saved.meta["best"]),  # of the only validation
        "held_out": read_evaluation(scores).mean_iou,
        "seconds_used": speed.seconds(steps),
        "weights": "last",
        "steps": steps,
        "crop": list(plan.example_crop if run.row.plain else run.config.augment.crop),
        "speed": asdict(speed),
    }


def _timed(work: Callable[[], object]) -> float:
    return timeit(work, number=1)


def plan_of(prepared: Prepared, place: Path, weights: Path, process: Process) -> Plan:
    """Return what the runs of peers_runs share: here SMP's example keeps the images' size."""
    height, width = prepared.open("train").sizes([0])[0]
    rows, columns = (min(_EXAMPLE_CROP, side // _MULTIPLE * _MULTIPLE) for side in (height, width))
    return Plan(
        data=str(prepared.hand),
        weights=str(weights),
        settings=(),
        epochs=1,
        output=place,
        process=process,
        example_size=(height, width),
        example_crop=(rows, columns),
    )


def hand_run(task: Task, prepared: Prepared, plan: Plan, steps: int) -> Run:
    """Return a hand recipe adapted to a dataset as its user would: crop and class weights.

    SMP's networks take the settings of ours for CamVid there, and of own_data elsewhere.
    """
    name, _, kind = task.row.partition(":")
    recipe = Recipe(name, kind or "ours")
    ours = "camvid_mobilenet" if prepared.layout == "camvid" else "own_data"
    file = find_config(name if recipe.is_ours else ours, Path())
    settings = [
        *(f"data.dataset={prepared.layout}", f"data.root={plan.data}", f"seed={task.seed}"),
        *(f"model.pretrained={plan.weights}", f"output={plan.output / 'training'}"),
        *(f"train.steps_per_epoch={steps}", "train.epochs=1", "train.amp=off"),
    ]
    if not recipe.is_ours:  # what they replace
        settings += ["model.head=fcn", "model.head_options={}"]
    config = load_config(file, settings, SegConfig)
    crop = fitted_crop(config.augment.crop, plan.example_size)
    if not recipe.is_ours:
        crop = [nearest_multiple(side, PEERS[name]) for side in crop]
    settings.append(f"augment.crop={crop}")
    weights, classes = config.loss.class_weights, prepared.open("train").table.num_classes
    if isinstance(weights, list) and len(weights) != classes:
        settings.append("loss.class_weights=auto")
    return Run(recipe, load_config(file, settings, SegConfig), plan.output)


def fitted_crop(crop: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """Make a crop no larger than images of a size, rounded up to a multiple of 16 plus one."""
    return [
        min(side, math.ceil((length - 1) / 16) * 16 + 1)
        for side, length in zip(crop, size, strict=True)
    ]


def stored_speed(task: Task, prepared: Prepared, plan: Plan) -> Speed:
    """Return the speed of a hand recipe on a dataset; measure it on the CPU if that is not done."""
    path = plan.output.parents[1] / "speeds" / f"{task.data}-{task.row.replace(':', '-')}.json"
    if not path.is_file():
        on_cpu = replace(plan, process=CPU)
        found = measure(on_cpu, hand_run(task, prepared, on_cpu, _ENDLESS))
        path.parent.mkdir(exist_ok=True)
        write_json(path, asdict(found))
    with refusing(path, "holds no speed"):
        return Speed(**read_json(path, MAX_DESCRIPTION))


def measure(plan: Plan, run: Run) -> Speed:
    """Time preparation, training steps with their loading of images, and a validation."""
    output = plan.output / "measured"
    aside = replace(run, config=run.config.model_copy(update={"output": str(output)}))
    start = time.perf_counter()
    training = prepare(plan, aside)
    started = time.perf_counter() - start
    try:
        steps = Steps(training)
        first = _timed(steps)  # starts the workers, and warms up
        seconds = [_timed(steps)]
        while sum(seconds) < _MEASURED:
            seconds.append(_timed(steps))
        validation = _timed(lambda: training.validate(training.evaluated))
    finally:
        training.lock.release()
        shutil.rmtree(output)
    start, machine = started + max(first - mean(seconds), 0), describe_device(plan.process.device)
    return Speed(start, mean(seconds) / STEPS, validation, machine)
