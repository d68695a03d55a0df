"""The plan of a sweep: from its YAML to the configuration of every trial."""

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.pruners import BasePruner, NopPruner

from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import one_or_many, problems_of, read_settings, set_key, validate
from sceneparse.config.recipes import find_config
from sceneparse.errors import InputError
from sceneparse.studies.sweep.settings import (
    METHODS,
    PRUNERS,
    Direction,
    EarlySection,
    Params,
    Space,
    SweepConfig,
    as_choice,
)

# Workers that wait read the state of every trial each second.
MAX_TRIALS = 10_000


@dataclass(frozen=True)
class Plan:
    """A sweep, read and checked.

    `space`: distributions of the searched settings; `listed`: their values, or the ends of their
    ranges; `settings`: those that all trials share.
    """

    name: str
    method: str
    metric: str
    direction: Direction
    trials: int
    space: Space
    listed: Mapping[str, Sequence[Any]]
    settings: Mapping[str, Any]
    early: EarlySection | None
    output: Path

    @property
    def device(self) -> str | None:
        """The device of all trials, as train.device names it."""
        return ClsConfig.model_validate(self.settings).train.device

    def starts(self) -> list[Params]:
        """Return the parameters of each trial that are fixed before the first trial."""
        return METHODS[self.method](self.space, self.trials)

    def folder(self, trial: int) -> Path:
        """Return the folder of a trial's runs."""
        return self.output / f"trial-{trial:04d}"

    def config_of(self, params: Params, trial: int) -> ClsConfig:
        """Build the configuration of a trial."""
        changes = {
            key: next((value for value in self.listed[key] if as_choice(value) == choice), choice)
            for key, choice in params.items()
        }
        settings = _changed(self.settings, {**changes, "output": str(self.folder(trial))})
        return validate(settings, ClsConfig, f"trial {trial}")

    def listed_configs(self, *keys: str) -> Iterator[ClsConfig]:
        """Build the configurations of all combinations of the listed values of some keys."""
        searched = [key for key in keys if key in self.listed]
        for values in itertools.product(*(self.listed[key] for key in searched)):
            changes = dict(zip(searched, values, strict=True))
            yield ClsConfig.model_validate(_changed(self.settings, changes))

    def pruner(self) -> BasePruner:
        """Build the rule that ends trials early."""
        if self.early is None:
            return NopPruner()
        longest = max(config.train.epochs for config in self.listed_configs("train.epochs"))
        most = self.early.max_iter or longest
        return PRUNERS[self.early.type](self.early.min_iter, most, self.early.eta)

    def description(self) -> dict[str, Any]:
        """Return all settings that must be the same if the sweep is resumed."""
        config = ClsConfig.model_validate(self.settings).model_dump(mode="json")
        space = {key: json.loads(distribution_to_json(d)) for key, d in self.space.items()}
        return {
            **config,
            "sweep": {
                "method": self.method,
                "metric": self.metric,
                "parameters": space,
                "early_terminate": self.early and self.early.model_dump(mode="json"),
            },
        }


def read_plan(path: Path, overrides: Sequence[str], trials: int | None) -> Plan:
    """Read a sweep's YAML and the configuration it names; check every value that is listed.

    `overrides` change settings of the runs, `trials` the number of trials. Raises InputError that
    names every problem.
    """
    sweep = validate(read_settings(path, (), SweepConfig), SweepConfig, path)
    base = find_config(sweep.config, path.parent)
    output = f"output={json.dumps(f'runs/{path.stem}')}"
    settings: Mapping[str, Any] = read_settings(base, [output, *overrides], ClsConfig)
    validate(settings, ClsConfig, base, overrides)
    given = {override.partition("=")[0] for override in overrides}
    searched = {key: section.searched for key, section in sweep.parameters.items()}
    space = {key: d for key, d in searched.items() if d is not None}
    listed = {key: sweep.parameters[key].listed for key in space}
    _check_values(path, settings, sweep)
    if both := given & space.keys():
        raise InputError(f"{min(both)} is what the sweep searches; remove it from the command")
    fixed = [key for key in sweep.parameters if key not in space and key not in given]
    settings = _changed(settings, {key: sweep.parameters[key].value for key in fixed})
    plan = Plan(
        name=sweep.name or path.stem,
        method=sweep.method,
        metric=sweep.metric.name,
        direction=sweep.metric.direction,
        trials=_number_of_trials(path, sweep, trials, space),
        space=space,
        listed=listed,
        settings=settings,
        early=sweep.early_terminate,
        output=Path(ClsConfig.model_validate(settings).output),
    )
    holdouts = [config.data.holdout for config in plan.listed_configs("data.holdout")]
    if plan.metric.startswith("holdout") and not min(holdouts):
        raise InputError(f"{path}: metric.name: {plan.metric} needs data.holdout above 0")
    return plan


def _changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with other values at dotted keys."""
    changed = copy.deepcopy(dict(settings))
    for key, value in changes.items():
        set_key(changed, key, value)
    return changed


def _check_values(path: Path, settings: Mapping[str, Any], sweep: SweepConfig) -> None:
    """Raise InputError for unknown keys and for values that they do not take."""
    if "output" in sweep.parameters:
        raise InputError(f"{path}: parameters.output: give output=FOLDER in the command")
    if "train.device" in sweep.parameters:
        raise InputError(
            f"{path}: parameters.train.device: a sweep runs on one device; give train.device=NAME "
            "in the command"
        )
    problems = [
        problem
        for key, section in sweep.parameters.items()
        for value in section.listed
        for problem in problems_of(_changed(settings, {key: value}), ClsConfig)
    ]
    if problems:
        raise one_or_many(f"{path}: parameters", problems)


def _number_of_trials(path: Path, sweep: SweepConfig, asked: int | None, space: Space) -> int:
    if not space:
        raise InputError(f"{path}: parameters: nothing is searched, each has a single value")
    wanted = asked or sweep.run_cap
    if sweep.method == "grid":
        ranges = [key for key, d in space.items() if not isinstance(d, CategoricalDistribution)]
        if ranges:
            raise InputError(f"{path}: a grid needs values, but a range is given for {ranges[0]}")
        size = math.prod(len(sweep.parameters[key].values) for key in space)
        wanted = min(size, wanted or size)
    if wanted is None:
        raise InputError(f"{path}: {sweep.method} never ends; give run_cap, or --trials")
    if wanted > MAX_TRIALS:
        raise InputError(
            f"{path}: {wanted:,} trials are more than the {MAX_TRIALS:,} of a sweep; remove values "
            "or give run_cap"
        )
    return wanted
