"""Sweeps: plans read strictly, what becomes of trials, results in files."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import Trial, TrialState
from test_classes import animals  # noqa: F401 - a fixture
from test_train_seg import call

from sceneparse.cli import sweep as sweep_command
from sceneparse.config.recipes import find_config
from sceneparse.runtime.progress import log_on_main
from sceneparse.studies.sweep import results, settings, study, worker
from sceneparse.studies.sweep.plan import Plan, read_plan
from sceneparse.studies.sweep.settings import Params, Space
from sceneparse.studies.sweep.study import open_storage
from sceneparse.training.validation import Validated

ROOT = Path(__file__).parents[1]
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore:Heartbeat of storage:UserWarning",  # of trials that a test takes by itself
)

GRID = """
method: grid
metric: {name: test_loss, goal: minimize}
parameters:
  attention: {values: [none, eca]}
  optim.lr: {values: [0.1, 1.0e+30]}
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(animals: Path, tmp_path: Path) -> Write:  # noqa: F811
    """Write a sweep of runs of a second, and the configuration of those."""
    (tmp_path / "base.yaml").write_text(
        f"model: resnet20\ndata: {{dataset: folder, root: {animals}, size: 16}}\n"
        "train: {epochs: 2, batch_size: 8, amp: 'off'}\n"
    )

    def write(text: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text("config: base.yaml\n" + text)
        return path

    return write


def planned(path: Path, *overrides: str, trials: int | None = None) -> Plan:
    return read_plan(path, [f"output={path.parent / 'out'}", *overrides], trials)


def work_here(plan: Plan) -> list[results.Row]:
    """Carry out a sweep in this process."""
    place = str(plan.output / "sweep.db")
    study.open_study(plan, open_storage(place))
    worker.work(plan, place, 0, 1, multiprocessing.Event())
    return rows_at(plan, place)


def rows_at(plan: Plan, place: str) -> list[results.Row]:
    found = study.join_study(plan, open_storage(place))
    return results.rows_of(plan, study.attempts_of(found))


def epochs_of(seed: Path) -> list[int]:
    lines = (seed / "metrics.jsonl").read_text().splitlines()
    return [r["epoch"] for r in map(json.loads, lines) if r["kind"] == "val"]


def test_grid_visits_every_combination_once(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [write(GRID), f"output={tmp_path / 'out'}", "--workers=2"]
    assert call(sweep_command, *command) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out/sweep.json").read_text())
    rows = found["trials"]
    points = [(row["params"]["attention"], row["params"]["optim.lr"]) for row in rows]
    assert points == [("none", 0.1), ("none", 1e30), ("eca", 0.1), ("eca", 1e30)]
    # what failed is recorded with its error, and is not a value
    assert [row["state"] for row in rows] == ["complete", "failed"] * 2
    assert [row["value"] is not None for row in rows] == [True, False] * 2
    assert all("NumericalError: the network's outputs" in row["note"] for row in rows[1::2])
    assert "NumericalError" in (tmp_path / "out/trial-0001/train.log").read_text()

    # the value is the last epoch's, the folder a run like any other
    for row in rows[::2]:
        last = (tmp_path / "out" / row["folder"] / "seed-0/metrics.jsonl").read_text().splitlines()
        assert row["value"] == json.loads(last[-1])["test_loss"]
    losses = {row["trial"]: row["value"] for row in rows[::2]}
    assert found["best"] == min(losses, key=lambda trial: losses[trial])
    assert "flatters" in found["caution"]
    assert found["importance"] == {}  # needs 4 complete trials
    assert (tmp_path / "out/parallel_coordinates.png").is_file()
    assert "importance   " not in printed

    # the same command only prints the results again
    before = (tmp_path / "out/sweep.db").read_bytes()
    assert call(sweep_command, *command) == 0
    assert (tmp_path / "out/sweep.db").read_bytes() == before
    assert "best         trial" in capsys.readouterr().out


BAD = {
    "methd: grid\n": "methd: unknown key, did you mean 'method'",
    GRID.replace(
        "grid", "sobol"
    ): "method: unknown method 'sobol'; choose one of: bayes, grid, random",
    GRID.replace("test_loss", "loss"): "metric.name: unknown metric 'loss'; choose one of: holdout",
    GRID.replace("goal: min", "goal: max"): "goal of test_loss must be minimize, got maximize",
    GRID.replace("test_loss", "holdout_loss"): "holdout_loss needs data.holdout above 0",
    GRID + "program: train.py\n": "program: input should be 'tools/train_cls.py'",
    GRID + "early_terminate: {type: hyperband, mni_iter: 3}": (
        "early_terminate.mni_iter: unknown key, did you mean 'min_iter'"
    ),
    GRID + "  optim.nmae: {value: sgd}\n": "optim.nmae: unknown key, did you mean 'name'",
    GRID + "  optim.name: {vals: [sgd]}\n": "optim.name.vals: unknown key, did you mean 'value",
    GRID + "  optim.name: {values: [sgd, lion]}\n": "optim.name: unknown optimiser 'lion'; choose",
    GRID + "  attention.kind: {value: 3}\n": (
        "attention: input should be a valid string, got {'kind': 3}"
    ),
    GRID + "  optim.gamma: {values: [0.1, -1]}\n": "optim.gamma: input should be greater than 0",
    GRID + "  optim.gamma: {values: [1, 1.0]}\n": "values must differ",
    GRID + "  optim.gamma: {min: 0.1, max: 0.2}\n": "a grid needs values, but a range is given for",
    GRID + "  optim.gamma: {min: 1}\n": "give value, or values, or min and max",
    GRID + "  optim.gamma: {distribution: normal, min: 0, max: 1}\n": (
        "unknown distribution 'normal'; choose one of: categorical, constant, int_uniform"
    ),
    GRID + "  model: {values: [resnet20, resnet19]}\n": "unknown model 'resnet19'",
    GRID.replace("eca", "magic"): "unknown attention 'magic'",
    GRID.replace("grid", "bayes"): "bayes never ends; give run_cap, or --trials",
    "method: random\nrun_cap: 2\nmetric: {name: test_loss}\nparameters:\n"
    "  optim.lr: {min: -0.1, max: 0.1}\n": "optim.lr: input should be greater than 0, got -0.1",
    "method: random\nrun_cap: 2\nmetric: {name: test_loss}\nparameters:\n"
    "  train.batch_size: {min: 1, max: 9, distribution: log_uniform_values}\n": (
        "train.batch_size: input should be a valid integer"
    ),
    "method: grid\nmetric: {name: test_loss}\nparameters:\n  optim.lr: {value: 1}\n": (
        "nothing is searched"
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_bad_sweeps_are_named_and_leave_nothing(
    write: Write, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(sweep_command, write(text), f"output={tmp_path / 'out'}") == 2
    assert BAD[text] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lr=0.2"], "optim.lr is what the sweep searches"),
        (["optim.nmae=adam"], "optim.nmae: unknown key"),
        (["data.root=nowhere"], "folder 'nowhere/train' does not exist"),
        (["output=tests"], "'tests' holds more than a sweep"),
        (["--workers=0"], "--workers: must be 1 or more"),
        (["--storage=mysql://me@host/x"], "--storage takes postgresql://... or a file"),
        (["--storage=postgresql://me:topsecret@127.0.0.1:x/y"], "is not of the form postgresql://"),
        (["--storage=postgresql://me:topsecret@127.0.0.1:1/x"], "cannot reach the database"),
    ],
)
def test_bad_commands_are_one_line(
    write: Write,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(sweep_command, write(GRID), f"output={tmp_path / 'out'}", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "secret" not in line
    assert not (tmp_path / "out").exists()


def test_weights_under_other_licences_are_refused_before_the_first_trial(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(GRID.replace("[none, eca]", "[none]"))
    settings = (f"output={tmp_path / 'out'}", "model=timm:convnextv2_atto", "pretrained=imagenet")
    assert call(sweep_command, path, *settings, "--licences", "permissive") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --licences permissive refuses the pretrained weights convnextv2")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["model: resnet18\n", '{"op_code": 0}\n{"op_co'])
def test_what_is_no_database_is_refused(
    write: Write, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.log").write_text(text)
    settings = [f"output={tmp_path / 'out'}", f"--storage={tmp_path / 'sweep.log'}"]
    assert call(sweep_command, write(GRID), *settings) == 2
    assert "sweep.log: file is not a database" in capsys.readouterr().err
    assert (tmp_path / "sweep.log").read_text() == text


def test_damaged_database_is_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(write(GRID))
    path = plan.output / "sweep.db"
    study.open_study(plan, open_storage(str(path)))
    content = path.read_bytes()
    damaged = content[:4096] + bytes(len(content) - 4096)
    path.write_bytes(damaged)
    assert call(sweep_command, write(GRID), f"output={plan.output}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "database disk image is malformed" in line
    assert path.read_bytes() == damaged


def test_sweep_of_an_earlier_version_is_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/trial-0000").mkdir(parents=True)
    (tmp_path / "out/journal.log").write_text('{"op_code": 0}\n')
    assert call(sweep_command, write(GRID), f"output={tmp_path / 'out'}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds more than a sweep (journal.log); choose another folder" in line
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_missing_optuna_names_the_remedy(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep_command, "find_spec", lambda name: None if name == "optuna" else name)
    assert call(sweep_command, write(GRID)) == 2
    assert "pip install 'sceneparse[sweep]'" in capsys.readouterr().err


def test_the_reports_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweep_report.yaml").write_text(find_config("sweep_report").read_text())
    plan = read_plan(tmp_path / "sweep_report.yaml", [], None)
    assert plan == read_plan(find_config("sweep_report"), [], None)
    assert (plan.method, plan.metric, plan.direction) == ("bayes", "test_loss", "minimize")
    assert plan.listed["optim.name"] == ["adam", "sgd"]
    assert plan.listed["train.batch_size"] == [64, 128, 256]
    assert set(plan.listed["attention"]) == {"none", "triplet", "strip_pooling", "eca", "gct"}
    for name, lr in (("sgd", 0.1), ("adam", 0.001)):
        config = plan.config_of({"optim.name": name, "attention": "gct"}, 7)
        assert (config.model, config.data.dataset) == ("resnet18", "cifar10")
        assert (config.train.epochs, config.optim.lr) == (50, lr)
        assert config.output == "runs/sweep_report/trial-0007"


def test_ranges_are_those_of_wandb(write: Write) -> None:
    path = write(
        "method: random\nrun_cap: 20\nmetric: {name: test_accuracy}\nparameters:\n"
        "  train.batch_size: {min: 2, max: 8}\n"
        "  augment.padding: {distribution: q_uniform, min: 0, max: 6, q: 3}\n"
        "  optim.momentum: {min: 0, max: 1.0}\n"
        "  optim.lr: {distribution: log_uniform_values, min: 0.001, max: 1}\n"
        "  optim.milestones: {values: [[1], [1, 2]]}\n"
        "  train.epochs: {value: 3}\n"
    )
    plan = planned(path)
    assert plan.direction == "maximize"
    assert plan.space["train.batch_size"] == IntDistribution(2, 8)
    assert plan.space["augment.padding"] == IntDistribution(0, 6, step=3)
    assert plan.space["optim.momentum"] == FloatDistribution(0, 1)
    assert plan.space["optim.lr"] == FloatDistribution(0.001, 1, log=True)
    starts = plan.starts()
    configs = [plan.config_of(params, trial) for trial, params in enumerate(starts)]
    assert {config.augment.padding for config in configs} == {0, 3, 6}
    assert {tuple(config.optim.milestones) for config in configs} == {(1,), (1, 2)}
    assert {config.train.epochs for config in configs} == {3}
    # half of the decades lie below their middle
    assert 5 <= sum(config.optim.lr < 0.0316 for config in configs) <= 15
    # more trials begin with the same ones
    assert planned(path, trials=25).starts()[:20] == starts


BAYES = """
method: bayes
run_cap: {trials}
metric: {{name: test_loss}}
parameters:
  attention: {{values: [none, eca]}}
"""


def test_bayes_trains_no_choice_twice(write: Write) -> None:
    plan = planned(write(BAYES.format(trials=4)), "train.epochs=1")
    rows = work_here(plan)
    assert [row.state for row in rows] == ["complete"] * 4
    first = {row.params["attention"]: row for row in reversed(rows)}
    for row in rows:
        same = first[row.params["attention"]]
        assert row.value == same.value
        assert row.note == ("" if row is same else f"same as trial {same.trial}")
    sweep = study.join_study(plan, open_storage(str(plan.output / "sweep.db")))
    assert results.write_results(plan, study.attempts_of(sweep)) == {"attention": 1.0}


def test_hopeless_trials_are_pruned(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([1.0] * 15 + [2.0] * 3)
    monkeypatch.setattr(
        "sceneparse.training.classification.validate_classifier",
        lambda *_, **__: Validated(0.0, "", "", {"test_loss": next(losses)}),
    )
    text = (
        "method: random\nrun_cap: 6\nmetric: {name: test_loss}\n"
        "early_terminate: {type: median, min_iter: 2}\n"
        "parameters: {optim.lr: {min: 0.01, max: 0.1}}\n"
    )
    plan = planned(write(text), "train.epochs=3")
    rows = work_here(plan)
    assert [row.state for row in rows] == ["complete"] * 5 + ["pruned"]
    assert (rows[5].value, rows[5].note) == (2.0, "ended early after epoch 2")
    best = results.best_of(plan, rows)
    assert best is not None
    assert best.value == 1.0
    assert list(losses) == [2.0]  # its third epoch was not trained


def test_a_sweep_whose_trials_all_fail_says_why(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(GRID.replace("[0.1, 1.0e+30]", "[1.0e+30, 1.0e+31]"))
    assert [row.state for row in work_here(planned(path))] == ["failed"] * 4
    capsys.readouterr()
    assert call(sweep_command, path, f"output={tmp_path / 'out'}") == 2
    printed = capsys.readouterr()
    assert printed.out.count("NumericalError: the network's outputs") == 4
    assert "all 4 trials failed, the first one: NumericalError" in printed.err


def test_another_plan_is_refused_with_what_differs(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(write(GRID))
    study.open_study(plan, open_storage(str(plan.output / "sweep.db")))
    command = [write(GRID.replace("eca", "gct")), f"output={tmp_path / 'out'}", "train.epochs=5"]
    assert call(sweep_command, *command) == 2
    said = capsys.readouterr().err
    assert "train.epochs was 2, is 5" in said
    assert "sweep.parameters.attention.attributes.choices was ['none', 'eca'], is" in said
    # trials that wait already would be run all the same
    fewer = [write(GRID), f"output={tmp_path / 'out'}", "--trials=2"]
    assert call(sweep_command, *fewer) == 2
    assert "has 4 trials already; give as many by --trials" in capsys.readouterr().err
    command[0] = write(GRID.replace("eca", "gct"))
    (plan.output / "sweep.db").unlink()
    (plan.output / "trial-0000").mkdir()
    assert call(sweep_command, *command) == 2
    assert "holds the trials of another sweep" in capsys.readouterr().err


def vanish(storage: RDBStorage, attempt: int) -> None:
    """Let the worker of a running attempt be silent for years, and a command look for it."""
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = '2000-01-01' WHERE trial_id ="
            f" (SELECT trial_id FROM trials WHERE number = {attempt})"
        )


def test_trials_of_vanished_machines_run_again_and_doubles_do_not(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(write(GRID.replace("1.0e+30", "0.01")), "train.epochs=1")
    storage = open_storage(str(plan.output / "sweep.db"))
    opened = study.open_study(plan, storage)
    for trial, params in enumerate(plan.starts()):  # by another machine, at the same moment
        opened.enqueue_trial(params, {"trial": trial})
    log_on_main()
    silent, _, unfinished = (opened.ask().number for _ in range(3))
    vanish(storage, silent)
    for _ in range(2):
        fail_stale_trials(opened)
        states = [of[-1].state for of in study.attempts_of(opened).values()]
        assert states == [WAITING, RUNNING, RUNNING, WAITING]
    expected = "trial 0: its worker  sent no heartbeat; it is run again\n"
    assert capsys.readouterr().out == expected
    opened.tell(unfinished, state=TrialState.FAIL)  # and killed before it was queued again
    vanish(storage, 1)
    rows = work_here(plan)
    assert [(row.state, row.attempts) for row in rows] == [("complete", 2)] * 3 + [("complete", 1)]
    assert len({(row.params["attention"], row.params["optim.lr"]) for row in rows}) == 4


def test_worker_that_was_counted_as_dead_leaves_its_trial_to_others(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(write(BAYES.format(trials=1)))
    storage = open_storage(str(plan.output / "sweep.db"))

    def suggest(trial: Trial, space: Space) -> Params:
        # Its heart may beat between the two calls.
        while trial.number == 0 and not storage.get_trial(trial._trial_id).state.is_finished():
            vanish(storage, trial.number)
            fail_stale_trials(study.join_study(plan, storage))
        return settings.suggest(trial, space)

    monkeypatch.setattr(worker, "suggest", suggest)
    (row,) = work_here(plan)
    assert (row.state, row.attempts, row.epochs) == ("complete", 2, 2)


def test_trial_that_ended_after_all_is_not_run_again(write: Write) -> None:
    plan = planned(write(BAYES.format(trials=1)))
    place = str(plan.output / "sweep.db")
    storage = open_storage(place)
    opened = study.open_study(plan, storage)
    running = opened.ask()
    vanish(storage, running.number)
    opened.tell(running, 0.5)
    fail_stale_trials(opened)
    (row,) = rows_at(plan, place)
    assert (row.state, row.value, row.attempts) == ("complete", 0.5, 1)


def test_trial_whose_workers_are_killed_again_and_again_fails(write: Write) -> None:
    plan = planned(write(BAYES.format(trials=1)))
    place = str(plan.output / "sweep.db")
    storage = open_storage(place)
    opened = study.open_study(plan, storage)
    for _ in range(4):
        vanish(storage, opened.ask().number)
        fail_stale_trials(opened)
    study.open_study(plan, storage)
    (row,) = rows_at(plan, place)
    assert (row.state, row.value, row.attempts) == ("failed", None, 4)
    assert row.note == "its worker was killed 4 times"
