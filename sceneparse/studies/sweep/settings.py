"""The settings of a sweep, in the shape of a Weights & Biases sweep."""

from __future__ import annotations

import math
import reprlib
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from sceneparse.config.types import Count, NameIn, Section
from sceneparse.studies.sweep import search
from sceneparse.studies.sweep.search import DISTRIBUTIONS, METRICS


def _number(value: Any) -> float:  # noqa: ANN401 - whatever YAML holds
    """Keep whole numbers whole: between two of them there are only whole ones."""
    # What is compared is false for NaN.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise ValueError(f"input should be a number, got {reprlib.repr(value)}")
    return value


_TABLES = "sceneparse.studies.sweep.search"
Number = Annotated[float, PlainValidator(_number)]


class MetricSection(Section):
    """What a trial is judged by."""

    name: Annotated[str, NameIn("metric", f"{_TABLES}.METRICS")] = Field(
        description="value after the last epoch, the mean over the seeds"
    )
    goal: str | None = Field(None, description="null: minimize a loss, maximize an accuracy")

    @property
    def direction(self) -> search.Direction:
        """Whether less or more is better."""
        return METRICS[self.name]

    @model_validator(mode="after")
    def _check_goal(self) -> MetricSection:
        if self.goal not in {None, self.direction}:
            raise ValueError(f"goal of {self.name} must be {self.direction}, got {self.goal}")
        return self


class ParameterSection(Section):
    """What a setting may be: one value, one of some values, or a number of a range."""

    value: Any = Field(None, description="the value in all trials")
    values: list[Any] = Field([], max_length=1000, description="one of these")
    min: Number = Field(0, description="smallest number")
    max: Number = Field(0, description="largest number")
    q: Number = Field(0, description="step of q_uniform")
    distribution: Annotated[str | None, NameIn("distribution", f"{_TABLES}.DISTRIBUTIONS")] = Field(
        None, description=f"{', '.join(DISTRIBUTIONS)}; null: follows from the other keys"
    )

    @property
    def kind(self) -> str:
        """The distribution: as given, or as W&B concludes it from the other keys."""
        if self.distribution is not None:
            return self.distribution
        if "value" in self.model_fields_set:
            return "constant"
        if "values" in self.model_fields_set:
            return "categorical"
        whole = isinstance(self.min, int) and isinstance(self.max, int)
        return "int_uniform" if whole else "uniform"

    @property
    def searched(self) -> search.Distribution | None:
        """What Optuna chooses from; None if the value is the same in all trials."""
        keys, build = DISTRIBUTIONS[self.kind]
        return build(*(getattr(self, key) for key in keys))

    @model_validator(mode="after")
    def _check(self) -> ParameterSection:
        given, needed = self.model_fields_set - {"distribution"}, DISTRIBUTIONS[self.kind][0]
        if given != set(needed):
            raise ValueError(
                f"give value, or values, or min and max; {self.kind} needs {' and '.join(needed)}, "
                f"got {' and '.join(sorted(given)) or 'nothing'}"
            )
        if needed == ("values",):
            self._check_values()
        elif "min" in needed:
            self._check_range()
        return self

    def _check_values(self) -> None:
        if not self.values:
            raise ValueError("values is empty")
        if any(value in self.values[:index] for index, value in enumerate(self.values)):
            raise ValueError(f"values must differ, got {self.values}")

    def _check_range(self) -> None:
        if not self.min < self.max:
            raise ValueError(f"min must be below max, got {self.min} and {self.max}")
        if self.kind == "log_uniform_values" and self.min <= 0:
            raise ValueError(f"log_uniform_values needs min above 0, got {self.min}")
        if self.kind == "int_uniform" and not isinstance(self.min + self.max, int):
            raise ValueError(f"int_uniform needs whole numbers, got {self.min} and {self.max}")
        if self.kind == "q_uniform":
            steps = (self.max - self.min) / self.q if self.q > 0 else 0.5
            if not math.isclose(steps, round(steps)):
                raise ValueError(f"q must divide max - min = {self.max - self.min}, got {self.q}")


class EarlySection(Section):
    """When a hopeless trial is ended early, judged by the epochs of its first seed."""

    type: Annotated[str, NameIn("type", f"{_TABLES}.PRUNERS")] = Field(
        description="hyperband, or median: worse than half of the others at that epoch"
    )
    min_iter: Count = Field(1, description="epochs that every trial is given")
    max_iter: Count | None = Field(
        None, description="of hyperband: epochs of a whole trial; null: train.epochs"
    )
    eta: Annotated[int, Field(ge=2, strict=True)] = Field(
        3, description="of hyperband: one trial in eta continues at each halt"
    )


class SweepConfig(Section):
    """Everything that a sweep needs."""

    name: str | None = Field(None, description="name of the study; null: name of this file")
    description: str | None = Field(None, description="text for people")
    program: Literal["tools/train_cls.py"] = Field(
        "tools/train_cls.py", description="program that a trial runs"
    )
    config: str = Field(description="configuration of the runs, relative to this file")
    method: Annotated[str, NameIn("method", f"{_TABLES}.METHODS")] = Field(
        description="grid: every combination; random; bayes: tree-structured Parzen estimator"
    )
    metric: MetricSection = Field(description="what a trial is judged by")
    parameters: Annotated[dict[str, ParameterSection], Field(min_length=1)] = Field(
        description="settings of the runs as section.key, and what each may be"
    )
    run_cap: Count | None = Field(None, description="number of trials; null: the whole grid")
    early_terminate: EarlySection | None = Field(None, description="null: no trial is ended early")
