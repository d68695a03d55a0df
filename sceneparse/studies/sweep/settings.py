"""The settings of a sweep, in the shape of a Weights & Biases sweep, and what they build."""

from __future__ import annotations

import itertools
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import optuna
from optuna.distributions import BaseDistribution as Distribution
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.trial import Trial
from pydantic import Field, PlainValidator, model_validator

from sceneparse.config.types import Count, NameIn, Section

Params = dict[str, Any]
Space = Mapping[str, Distribution]
Direction = Literal["minimize", "maximize"]


def as_choice(value: Any) -> bool | int | float | str | None:  # noqa: ANN401 - whatever YAML holds
    """Return what Optuna stores for a value: itself, or the JSON text of a list or a section."""
    scalar = value is None or isinstance(value, bool | int | float | str)
    return value if scalar else json.dumps(value)


def _quantized(low: float, high: float, step: float) -> Distribution:
    if isinstance(low + high + step, int):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, high, step=step)


def _grid(space: Space, trials: int) -> list[Params]:
    choices = [d.choices for d in space.values() if isinstance(d, CategoricalDistribution)]
    points = itertools.islice(itertools.product(*choices), trials)
    return [dict(zip(space, point, strict=True)) for point in points]


def _random(space: Space, trials: int) -> list[Params]:
    draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [draws.ask(dict(space)).params for _ in range(trials)]


def suggest(trial: Trial, space: Space) -> Params:
    """Return the parameters of a trial; the sampler chooses those that are not fixed yet."""
    for key, d in space.items():
        if isinstance(d, CategoricalDistribution):
            trial.suggest_categorical(key, d.choices)
        elif isinstance(d, FloatDistribution):
            trial.suggest_float(key, d.low, d.high, step=d.step, log=d.log)
        elif isinstance(d, IntDistribution):
            trial.suggest_int(key, d.low, d.high, step=d.step, log=d.log)
    return trial.params


# The metrics that can rank trials, and whether less or more is better.
METRICS: dict[str, Direction] = {
    "test_loss": "minimize",
    "test_accuracy": "maximize",
    "holdout_loss": "minimize",
    "holdout_accuracy": "maximize",
}

# The keys of each distribution, and Optuna's distribution for their values.
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], Callable[..., Distribution | None]]] = {
    "constant": (("value",), lambda _: None),
    "categorical": (("values",), lambda values: CategoricalDistribution([*map(as_choice, values)])),
    "uniform": (("min", "max"), FloatDistribution),
    "int_uniform": (("min", "max"), IntDistribution),
    "q_uniform": (("min", "max", "q"), _quantized),
    "log_uniform_values": (("min", "max"), partial(FloatDistribution, log=True)),
}

# From the space and the number of trials to the parameters that are fixed before the first trial.
METHODS: dict[str, Callable[[Space, int], list[Params]]] = {
    "grid": _grid,
    "random": _random,
    "bayes": lambda _, trials: [{}] * trials,
}

# From min_iter, max_iter and eta to the rule that ends trials early.
PRUNERS: dict[str, Callable[[int, int, int], BasePruner]] = {
    "hyperband": HyperbandPruner,
    "median": lambda min_iter, _, __: MedianPruner(n_warmup_steps=min_iter),
}


def _number(value: Any) -> float:  # noqa: ANN401 - whatever YAML holds
    """Check a number and keep integers: between two of them only integers are drawn."""
    # Comparisons with NaN are false.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise ValueError(f"input should be a number, got {reprlib.repr(value)}")
    return value


Number = Annotated[float, PlainValidator(_number)]


class MetricSection(Section):
    """The metric that ranks trials."""

    name: Annotated[str, NameIn("metric", f"{__name__}.METRICS")] = Field(
        description="metric of the last epoch, averaged over the seeds"
    )
    goal: str | None = Field(None, description="null: minimize a loss, maximize an accuracy")

    @property
    def direction(self) -> Direction:
        """Whether the metric is minimized or maximized."""
        return METRICS[self.name]

    @model_validator(mode="after")
    def _check_goal(self) -> MetricSection:
        if self.goal not in {None, self.direction}:
            raise ValueError(f"goal of {self.name} must be {self.direction}, got {self.goal}")
        return self


class ParameterSection(Section):
    """Values of a setting: a single one, a list, or a range."""

    value: Any = Field(None, description="value in all trials")
    values: list[Any] = Field([], max_length=1000, description="values to choose from")
    min: Number = Field(0, description="smallest value of the range")
    max: Number = Field(0, description="largest value of the range")
    q: Number = Field(0, description="step of q_uniform")
    distribution: Annotated[str | None, NameIn("distribution", f"{__name__}.DISTRIBUTIONS")] = (
        Field(None, description=f"{', '.join(DISTRIBUTIONS)}; null: follows from the other keys")
    )

    @property
    def kind(self) -> str:
        """The distribution as given, or as W&B derives it from the other keys."""
        if self.distribution is not None:
            return self.distribution
        if "value" in self.model_fields_set:
            return "constant"
        if "values" in self.model_fields_set:
            return "categorical"
        whole = isinstance(self.min, int) and isinstance(self.max, int)
        return "int_uniform" if whole else "uniform"

    @property
    def searched(self) -> Distribution | None:
        """What Optuna chooses from; None if the value is the same in all trials."""
        keys, build = DISTRIBUTIONS[self.kind]
        return build(*(getattr(self, key) for key in keys))

    @property
    def listed(self) -> list[Any]:
        """The values, or the ends of the range, as a trial may get them."""
        keys = DISTRIBUTIONS[self.kind][0]
        if keys == ("values",):
            return self.values
        ends = [getattr(self, key) for key in keys[:2]]
        return list(map(float, ends)) if isinstance(self.searched, FloatDistribution) else ends

    @model_validator(mode="after")
    def _check(self) -> ParameterSection:
        given, needed = self.model_fields_set - {"distribution"}, DISTRIBUTIONS[self.kind][0]
        if given != set(needed):
            raise ValueError(
                f"give value, or values, or min and max; {self.kind} needs {' and '.join(needed)}, "
                f"got {' and '.join(sorted(given)) or 'nothing'}"
            )
        if needed == ("values",):
            if not self.values:
                raise ValueError("values is empty")
            if any(value in self.values[:index] for index, value in enumerate(self.values)):
                raise ValueError(f"values must differ, got {self.values}")
        elif "min" in needed:
            self._check_range()
        return self

    def _check_range(self) -> None:
        low, high = self.min, self.max
        if not low < high:
            raise ValueError(f"min must be below max, got {low} and {high}")
        if self.kind == "log_uniform_values" and low <= 0:
            raise ValueError(f"log_uniform_values needs min above 0, got {low}")
        if self.kind == "int_uniform" and not isinstance(low + high, int):
            raise ValueError(f"int_uniform needs whole numbers, got {low} and {high}")
        if self.kind == "q_uniform":
            steps = (high - low) / self.q if self.q > 0 else 0.5
            if not math.isclose(steps, round(steps)):
                raise ValueError(f"q must divide max - min = {high - low}, got {self.q}")


class EarlySection(Section):
    """The rule that ends bad trials early, by the epochs of their first seed."""

    type: Annotated[str, NameIn("type", f"{__name__}.PRUNERS")] = Field(
        description="hyperband, or median: end a trial that is worse than half of the others"
    )
    min_iter: Count = Field(1, description="smallest number of epochs of a trial")
    max_iter: Count | None = Field(
        None, description="hyperband: epochs of a whole trial; null: train.epochs"
    )
    eta: Annotated[int, Field(ge=2, strict=True)] = Field(
        3, description="hyperband: one trial in eta continues after each check"
    )


class SweepConfig(Section):
    """Settings of `sceneparse sweep`."""

    name: str | None = Field(None, description="name of the study; null: name of this file")
    description: str | None = Field(None, description="free text")
    program: Literal["tools/train_cls.py"] = Field(
        "tools/train_cls.py", description="program that a trial runs"
    )
    config: str = Field(description="configuration of the runs: file beside this one, or recipe")
    method: Annotated[str, NameIn("method", f"{__name__}.METHODS")] = Field(
        description="grid: every combination; random; bayes: tree-structured Parzen estimator"
    )
    metric: MetricSection = Field(description="metric that ranks trials")
    parameters: Annotated[dict[str, ParameterSection], Field(min_length=1)] = Field(
        description="settings of the runs as section.key, with their values"
    )
    run_cap: Count | None = Field(None, description="number of trials; null: the whole grid")
    early_terminate: EarlySection | None = Field(None, description="null: no trial is ended early")
