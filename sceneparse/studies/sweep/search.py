"""What a sweep can be asked for: tables of metrics, distributions, methods and early ends."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna import distributions
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.trial import Trial

Distribution = distributions.BaseDistribution
Params = dict[str, Any]
Space = Mapping[str, Distribution]
Direction = Literal["minimize", "maximize"]


def as_choice(value: Any) -> bool | int | float | str | None:  # noqa: ANN401 - whatever YAML holds
    """Return what Optuna stores for a value: itself, or the JSON text of a list or a section."""
    scalar = value is None or isinstance(value, bool | int | float | str)
    return value if scalar else json.dumps(value)


def _categorical(values: Sequence[Any]) -> Distribution:
    return CategoricalDistribution([as_choice(value) for value in values])


def _log_uniform(low: float, high: float) -> Distribution:
    return FloatDistribution(low, high, log=True)


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


def _bayes(_: Space, trials: int) -> list[Params]:
    return [{} for _ in range(trials)]


def suggest(trial: Trial, space: Space) -> Params:
    """Let the sampler choose the parameters of a trial that are not fixed yet; return them all."""
    for key, d in space.items():
        if isinstance(d, CategoricalDistribution):
            trial.suggest_categorical(key, d.choices)
        elif isinstance(d, FloatDistribution):
            trial.suggest_float(key, d.low, d.high, step=d.step, log=d.log)
        elif isinstance(d, IntDistribution):
            trial.suggest_int(key, d.low, d.high, step=d.step, log=d.log)
    return trial.params


# What a trial may be judged by, and which values are better.
METRICS: dict[str, Direction] = {
    "test_loss": "minimize",
    "test_accuracy": "maximize",
    "holdout_loss": "minimize",
    "holdout_accuracy": "maximize",
}

# The keys that describe a distribution, and Optuna's distribution for their values.
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], Callable[..., Distribution | None]]] = {
    "constant": (("value",), lambda _: None),
    "categorical": (("values",), _categorical),
    "uniform": (("min", "max"), FloatDistribution),
    "int_uniform": (("min", "max"), IntDistribution),
    "q_uniform": (("min", "max", "q"), _quantized),
    "log_uniform_values": (("min", "max"), _log_uniform),
}

# From the space and the number of trials to the parameters that are fixed before the first trial.
METHODS: dict[str, Callable[[Space, int], list[Params]]] = {
    "grid": _grid,
    "random": _random,
    "bayes": _bayes,
}

# From min_iter, max_iter and eta to the rule that ends a trial early.
PRUNERS: dict[str, Callable[[int, int, int], BasePruner]] = {
    "hyperband": HyperbandPruner,
    "median": lambda min_iter, _, __: MedianPruner(n_warmup_steps=min_iter),
}
