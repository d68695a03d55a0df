"""The results of a sweep: a table, sweep.json, and a picture."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_parallel_coordinate

from sceneparse.errors import reason_of
from sceneparse.report.plots import save_plot
from sceneparse.report.tables import Table, write_json
from sceneparse.runtime.progress import format_seconds
from sceneparse.studies.sweep.plan import Plan
from sceneparse.studies.sweep.settings import Params
from sceneparse.studies.sweep.study import MAX_KILLS, Attempts

# In the order of the table.
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A trial's state and result; the value of a pruned trial is the last one reported."""

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

    @property
    def cells(self) -> dict[str, str]:
        """The parameters as text."""
        return {
            key: f"{value:.4g}" if isinstance(value, float) else str(value)
            for key, value in self.params.items()
        }


def rows_of(plan: Plan, attempts: Attempts) -> list[Row]:
    """Return the state and result of each trial, by number."""
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
        return f"ended early after epoch {last.last_step}"
    if last.state == TrialState.FAIL:
        return str(last.user_attrs.get("error", f"its worker was killed {MAX_KILLS + 1} times"))
    return f"same as trial {last.user_attrs['same_as']}" if "same_as" in last.user_attrs else ""


def best_of(plan: Plan, rows: Sequence[Row]) -> Row | None:
    """Return the complete trial with the best value."""
    return next((row for row in _ranked(plan, rows) if row.state == "complete"), None)


def _ranked(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """Sort the trials that ended: complete ones by value, then pruned, then failed ones."""
    order, sign = list(_STATES.values()), 1 if plan.direction == "minimize" else -1
    return sorted(
        (row for row in rows if row.ended),
        key=lambda row: (order.index(row.state), sign * (row.value or 0), row.trial),
    )


def describe(plan: Plan, row: Row) -> str:
    """Describe a trial that ended on one line."""
    result = f"{plan.metric} {row.value:.4f}" if row.value is not None else row.state
    params = (f"{key}={value}" for key, value in row.cells.items())
    return "  ".join(filter(None, [f"trial {row.trial}", result, " ".join(params), row.note]))


def table(plan: Plan, rows: Sequence[Row]) -> str:
    """Lay out the trials that ended, the best first; values of pruned ones in brackets."""
    lines = []
    for row in _ranked(plan, rows):
        value = "-" if row.value is None else f"{row.value:.4f}"
        value = f"({value})" if row.state == "pruned" else value
        params = [row.cells.get(key, "-") for key in plan.space]
        lines.append([str(row.trial), value, *params, format_seconds(row.seconds), row.note])
    heads = ["trial", plan.metric, *plan.space, "time", "note"]
    return Table("Trials", heads, lines).as_text(numbers=False)


def caution(plan: Plan) -> str:
    """Return a warning if trials are chosen by test images; an empty text otherwise."""
    if plan.metric.startswith("holdout"):
        return ""
    return (
        "The trials are chosen by the test images, which flatters the best value: report it on "
        "other images, or choose by holdout_loss with data.holdout."
    )


def write_results(plan: Plan, attempts: Attempts) -> dict[str, float]:
    """Write sweep.json and, of two complete trials or more, the picture; return the importances."""
    study = optuna.create_study(direction=plan.direction)
    study.add_trials([of[-1] for of in attempts.values()])
    values = [trial.value for trial in study.get_trials(states=[TrialState.COMPLETE])]
    importance = {}
    if len(values) > 3 and len({*values}) > 1:
        evaluator = FanovaImportanceEvaluator(seed=0)
        importance = get_param_importances(study, evaluator=evaluator)
    rows = rows_of(plan, attempts)
    best = best_of(plan, rows)
    found = {
        "name": plan.name,
        **plan.description()["sweep"],
        "direction": plan.direction,
        "caution": caution(plan),
        "best": None if best is None else best.trial,
        "trials": [asdict(row) for row in rows],
        "importance": importance,
    }
    plan.output.mkdir(parents=True, exist_ok=True)
    write_json(plan.output / "sweep.json", found)
    if len(values) > 1:
        try:
            _draw(plan, study)
        except ValueError as error:  # matplotlib takes a value such as "a$b" for a formula
            logger.warning("parallel_coordinates.png cannot be drawn: %s", reason_of(error))
    return importance


def _draw(plan: Plan, study: Study) -> None:
    """Draw the settings and the value of each trial as parallel coordinates."""
    mpl.use("Agg")
    with warnings.catch_warnings(), mpl.rc_context():  # Optuna changes the style
        warnings.simplefilter("ignore")
        axes: Any = plot_parallel_coordinate(study, target_name=plan.metric)
        axes.figure.set_size_inches(max(2.2 * (len(plan.space) + 1), 7), 4.5)
        # Labels stand on lines.
        for label in [label for each in axes.figure.axes for label in each.get_yticklabels()]:
            label.set_backgroundcolor("#ffffffcc")
        save_plot(axes.figure, plan.output / "parallel_coordinates")
        pyplot.close(axes.figure)
