"""The results of a sweep: a table, sweep.json, sweep.csv, and pictures."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from sceneparse.errors import reason_of
from sceneparse.report.plots import save_plot
from sceneparse.report.tables import Table, write_csv
from sceneparse.runtime.progress import format_seconds
from sceneparse.studies.sweep.plan import Plan
from sceneparse.studies.sweep.search import Params
from sceneparse.studies.sweep.storage import MAX_KILLS
from sceneparse.studies.sweep.study import Attempts

# In the order of the table.
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_IMPORTANCE = FanovaImportanceEvaluator(seed=0)
# The pictures, and how many complete trials each needs to show anything.
_PICTURES: dict[str, tuple[int, Callable[..., Any]]] = {
    "importance": (4, partial(plots.plot_param_importances, evaluator=_IMPORTANCE)),
    "history": (1, plots.plot_optimization_history),
    "parallel_coordinates": (2, plots.plot_parallel_coordinate),
}


@dataclass(frozen=True)
class Row:
    """What became of a trial; the value of a pruned one is the last that was seen."""

    trial: int
    state: str
    value: float | None
    params: Params
    epochs: int
    seconds: float
    attempts: int
    note: str
    folder: str

    @property
    def ended(self) -> bool:
        """Whether the trial is not run any more."""
        return self.state not in {"running", "waiting"}


def rows_of(plan: Plan, attempts: Attempts) -> list[Row]:
    """Return what became of each trial, in their order."""
    return [
        Row(
            trial=trial,
            state=_STATES[of[-1].state],
            value=of[-1].value,
            params=of[-1].params,
            epochs=of[-1].last_step or 0,
            seconds=round(sum(a.duration.total_seconds() for a in of if a.duration), 1),
            attempts=len(of),
            note=_note(of[-1]),
            folder=plan.folder(trial).name,
        )
        for trial, of in attempts.items()
    ]


def _note(last: FrozenTrial) -> str:
    if last.state == TrialState.PRUNED:
        return f"given up after epoch {last.last_step}"
    if last.state == TrialState.FAIL:
        return str(last.user_attrs.get("error", f"its worker was killed {MAX_KILLS + 1} times"))
    return f"same as trial {last.user_attrs['same_as']}" if "same_as" in last.user_attrs else ""


def best_of(plan: Plan, rows: Sequence[Row]) -> Row | None:
    """Return the complete trial with the best value."""
    return next((row for row in _ranked(plan, rows) if row.state == "complete"), None)


def _ranked(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Sort what ended: complete ones by value, then pruned, then failed ones."""
    order, sign = list(_STATES.values()), 1 if plan.direction == "minimize" else -1
    return sorted(
        (row for row in rows if row.ended),
        key=lambda row: (order.index(row.state), sign * (row.value or 0), row.trial),
    )


def describe(plan: Plan, row: Row) -> str:
    """Describe a trial that ended, on a line."""
    what = f"{plan.metric} {row.value:.4f}" if row.value is not None else row.state
    note = f"  {row.note}" if row.note else ""
    params = " ".join(f"{key}={_text(value)}" for key, value in row.params.items())
    return f"trial {row.trial}  {what}  {params}{note}"


def table(plan: Plan, rows: Sequence[Row]) -> str:
    """Lay out the trials that ended, the best first; values of pruned ones in brackets."""
    lines = []
    for row in _ranked(plan, rows):
        value = "-" if row.value is None else f"{row.value:.4f}"
        value = f"({value})" if row.state == "pruned" else value
        params = [_text(row.params.get(key, "-")) for key in plan.space]
        lines.append([str(row.trial), value, *params, format_seconds(row.seconds), row.note])
    heads = ["trial", plan.metric, *plan.space, "time", "note"]
    return Table("Trials", heads, lines).as_text(numbers=False)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def caution(plan: Plan) -> str:
    """Return a warning if the values flatter; an empty text if not."""
    if plan.metric.startswith("holdout"):
        return ""
    return (
        "The trials are compared by the test images, so that the best value flatters: report it on "
        "other images, or choose by holdout_loss with data.holdout."
    )


def write_tables(plan: Plan, rows: Sequence[Row], extra: Mapping[str, Any] | None = None) -> None:
    """Write sweep.json and sweep.csv."""
    best = best_of(plan, rows)
    found = {
        "name": plan.name,
        **plan.description()["sweep"],
        "direction": plan.direction,
        "caution": caution(plan),
        "best": None if best is None else best.trial,
        "trials": [asdict(row) for row in rows],
        **(extra or {}),
    }
    plan.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (plan.output / "sweep.json").write_text(text, encoding="utf-8")
    records = []
    for record in found["trials"]:
        trial, state, value, params = map(record.pop, ("trial", "state", "value", "params"))
        searched = {key: params.get(key) for key in plan.space}
        records.append({"trial": trial, **searched, "state": state, plan.metric: value, **record})
    write_csv(plan.output / "sweep.csv", records)


def write_results(plan: Plan, attempts: Attempts) -> dict[str, str]:
    """Write the tables and the pictures; return why pictures are missing, by their names."""
    study = optuna.create_study(direction=plan.direction)
    study.add_trials([of[-1] for of in attempts.values()])
    complete = study.get_trials(states=[TrialState.COMPLETE])
    missing = {
        f"{name}.png": f"needs {needed} complete trials, there are {len(complete)}"
        for name, (needed, _) in _PICTURES.items()
        if len(complete) < needed
    }
    if not missing and len({trial.value for trial in complete}) == 1:
        missing["importance.png"] = "all complete trials have the same value"
    for name in _PICTURES:
        if f"{name}.png" not in missing:
            try:
                _draw(plan, study, name)
            except ValueError as error:  # as for a value that matplotlib takes for a formula
                missing[f"{name}.png"] = f"cannot be drawn: {reason_of(error)}"
    importance = {}
    if "importance.png" not in missing:
        importance = get_param_importances(study, evaluator=_IMPORTANCE)
    write_tables(plan, rows_of(plan, attempts), {"importance": importance, "missing": missing})
    return missing


def _draw(plan: Plan, study: Study, name: str) -> None:
    _, draw = _PICTURES[name]
    mpl.use("Agg")
    with warnings.catch_warnings(), mpl.rc_context():  # Optuna changes the style
        warnings.simplefilter("ignore")
        figure = draw(study, target_name=plan.metric).figure
        width = 2.2 * (len(plan.space) + 1) if name == "parallel_coordinates" else 7
        figure.set_size_inches(max(width, 7), 4.5)
        # Texts stand on lines.
        for label in [label for axes in figure.axes for label in axes.get_yticklabels()]:
            label.set_backgroundcolor("#ffffffcc")
        save_plot(figure, plan.output / name)
        pyplot.close(figure)
