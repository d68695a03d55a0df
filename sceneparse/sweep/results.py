"""What came of a sweep: a table, sweep.json, sweep.csv, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from sceneparse.report.plots import save_plot
from sceneparse.report.tables import Table, write_csv
from sceneparse.report.trials import (
    Axis,
    axis_of_choices,
    axis_of_numbers,
    history,
    importance_bars,
    parallel_coordinates,
)
from sceneparse.runtime.progress import format_seconds
from sceneparse.sweep.plan import Params, Plan
from sceneparse.sweep.study import MOST_KILLS, Attempts, in_state

# Fewer finished trials say nothing about importance.
_LEAST_FOR_IMPORTANCE = 4
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Row:
    """What became of a trial; of a pruned one, `value` is the last that was seen."""

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
        """Whether the trial is not to be run any more."""
        return self.state in {"complete", "pruned", "failed"}


def rows_of(plan: Plan, attempts: Attempts) -> list[Row]:
    """Say what became of each trial, in their order."""
    return [_row(plan, trial, of) for trial, of in attempts.items()]


def _row(plan: Plan, trial: int, attempts: Sequence[FrozenTrial]) -> Row:
    last = attempts[-1]
    value = last.value if last.state in {TrialState.COMPLETE, TrialState.PRUNED} else None
    spans = [a.duration.total_seconds() for a in attempts if a.duration is not None]
    return Row(
        trial=trial,
        state=_STATES[last.state],
        value=value,
        params=dict(last.params),
        epochs=last.last_step or 0,
        seconds=round(sum(spans), 1),
        attempts=len(attempts),
        note=_note(last),
        folder=plan.folder(trial).name,
    )


def _note(last: FrozenTrial) -> str:
    attrs = last.user_attrs
    if last.state == TrialState.PRUNED:
        return f"given up after epoch {last.last_step}"
    if last.state == TrialState.FAIL:
        return str(attrs.get("error", f"its worker was killed {MOST_KILLS + 1} times"))
    return f"same as trial {attrs['same_as']}" if "same_as" in attrs else ""


def best_of(plan: Plan, rows: Sequence[Row]) -> Row | None:
    """Return the trial with the best value among those that came to their end."""
    complete = [row for row in _ranked(plan, rows) if row.state == "complete"]
    return complete[0] if complete else None


def _ranked(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Sort what ended: complete ones by value, then pruned, then failed ones."""
    order = ["complete", "pruned", "failed"]
    sign = 1 if plan.direction == "minimize" else -1

    def rank(row: Row) -> tuple[int, float, int]:
        value = float("inf") if row.value is None else sign * row.value
        return order.index(row.state), value, row.trial

    return sorted((row for row in rows if row.ended), key=rank)


def row_in_words(plan: Plan, row: Row) -> str:
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
        lines.append(
            [
                str(row.trial),
                f"({value})" if row.state == "pruned" else value,
                *(_text(row.params.get(key, "-")) for key in plan.space),
                format_seconds(row.seconds),
                row.note,
            ]
        )
    heads = ["trial", plan.metric, *plan.space, "time", "note"]
    return Table("Trials", heads, lines).as_text(numbers=False)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def caution(plan: Plan) -> str:
    """Say what the values must not be taken for."""
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
    write_csv(plan.output / "sweep.csv", [_record(plan, row) for row in rows])


def _record(plan: Plan, row: Row) -> dict[str, Any]:
    return {
        "trial": row.trial,
        **{key: row.params.get(key) for key in plan.space},
        "state": row.state,
        plan.metric: row.value,
        "epochs": row.epochs,
        "seconds": row.seconds,
        "attempts": row.attempts,
        "note": row.note,
        "folder": row.folder,
    }


def write_results(plan: Plan, attempts: Attempts) -> dict[str, str]:
    """Write the tables and all pictures there is enough for; return why the others are missing."""
    rows = rows_of(plan, attempts)
    complete = [row for row in rows if row.state == "complete"]
    importance, reason = _importances(plan, attempts)
    missing = {}
    if importance:
        save_plot(importance_bars(importance, plan.metric), plan.output / "importance")
    else:
        missing["importance.png"] = reason
    if complete:
        values = {row.trial: row.value for row in complete if row.value is not None}
        figure = history(values, plan.metric, plan.direction)
        save_plot(figure, plan.output / "history")
    else:
        missing["history.png"] = "no trial is complete"
    if len(complete) > 1:
        axes = [_axis(plan, key, complete) for key in plan.space]
        losses = [row.value for row in complete if row.value is not None]
        figure = parallel_coordinates(axes, losses, plan.metric, plan.direction)
        save_plot(figure, plan.output / "parallel_coordinates")
    else:
        missing["parallel_coordinates.png"] = "fewer than two trials are complete"
    write_tables(plan, rows, {"importance": importance, "missing": missing})
    return missing


def _axis(plan: Plan, key: str, rows: Sequence[Row]) -> Axis:
    values, distribution = [row.params[key] for row in rows], plan.space[key]
    if isinstance(distribution, CategoricalDistribution):
        choices = [_text(choice) for choice in distribution.choices]
        return axis_of_choices(key, [_text(value) for value in values], choices)
    log = isinstance(distribution, FloatDistribution) and distribution.log
    return axis_of_numbers(key, values, log=log)


def _importances(plan: Plan, attempts: Attempts) -> tuple[dict[str, float], str]:
    """Estimate what share of the values' variance each parameter explains (fANOVA).

    Returns shares, or none and the reason.
    """
    complete = in_state(attempts, TrialState.COMPLETE)
    if len(complete) < _LEAST_FOR_IMPORTANCE:
        return {}, f"needs {_LEAST_FOR_IMPORTANCE} complete trials, there are {len(complete)}"
    if len({attempt.value for attempt in complete}) == 1:
        return {}, "all complete trials have the same value"
    study = optuna.create_study(direction=plan.direction)
    study.add_trials(complete)
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)), ""
